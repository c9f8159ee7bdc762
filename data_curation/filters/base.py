"""What a filter is."""

from typing import Literal, Protocol

from datatrove.data import Document

Verdict = Literal[True] | tuple[Literal[False], str]
"""True, or False with the reason that the statistics count."""


class DocumentFilter(Protocol):
    """A rule that judges one document by itself."""

    def __call__(self, document: Document) -> Verdict:
        """Judge a document; never changes it."""
        ...
