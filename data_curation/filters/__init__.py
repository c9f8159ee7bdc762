"""Filters: a document stays (True) or goes for a named reason ((False, "reason"))."""

from data_curation.filters.base import DocumentFilter, Verdict
from data_curation.filters.build import build_filters, watched_filters

__all__ = ["DocumentFilter", "Verdict", "build_filters", "watched_filters"]
