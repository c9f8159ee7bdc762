"""Protected health information: what names a patient, found by form, checksum and the words around it."""

from data_curation.phi.detect import CLASSES, Finding, find, in_context, redact

__all__ = ["CLASSES", "Finding", "find", "in_context", "redact"]
