"""Cleaning that never changes what a clinician wrote: characters, and passages that are no content."""

from data_curation.clean.characters import normalise
from data_curation.clean.rules import CLEANING_RULES, Cleaned, Removal, clean

__all__ = ["CLEANING_RULES", "Cleaned", "Removal", "clean", "normalise"]
