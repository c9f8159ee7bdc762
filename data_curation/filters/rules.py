"""The rules, each a small callable that can be sent to a worker."""

import string
import sys
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from datatrove.data import Document

from data_curation.filters.base import Verdict

_ASCII_LETTERS = string.ascii_letters.encode()


def letters_in(text: str) -> int:
    """Number of characters for which `str.isalpha` holds, counted without a loop."""
    if text.isascii():
        return len(text) - len(text.encode().translate(None, _ASCII_LETTERS))
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    return int(np.count_nonzero(_is_letter()[codes]))


@cache
def _is_letter() -> npt.NDArray[np.bool_]:
    """For each code point whether it is a letter."""
    return np.fromiter((chr(code).isalpha() for code in range(sys.maxunicode + 1)), dtype=np.bool_)


@dataclass(frozen=True)
class MinimumCharacters:
    """Drops texts shorter than `minimum` characters without surrounding white space."""

    minimum: int

    def __call__(self, document: Document) -> Verdict:
        """Judge by length; a text without any character is always dropped."""
        length = len(document.text.strip())
        if length == 0:
            return False, "no text"
        return True if length >= self.minimum else (False, "too few characters")


@dataclass(frozen=True)
class MinimumWords:
    """Drops texts of fewer than `minimum` words separated by white space."""

    minimum: int

    def __call__(self, document: Document) -> Verdict:
        """Judge by the number of words, without counting further than needed."""
        if len(document.text.split(maxsplit=self.minimum)) >= self.minimum:
            return True
        return False, "too few words"


@dataclass(frozen=True)
class LetterFraction:
    """Drops texts with too few letters, of any script, among what is not white space."""

    minimum: float

    def __call__(self, document: Document) -> Verdict:
        """Judge by the share of letters."""
        visible = "".join(document.text.split())
        return True if letters_in(visible) >= self.minimum * len(visible) else (False, "too few letters")


@dataclass(frozen=True)
class RepeatedLines:
    """Drops texts whose characters are mostly in repeated lines (Gopher, arXiv 2112.11446, table A1).

    Table rules ("| --- | --- |") and other lines without a letter or digit do not count: a document
    full of tables repeats them by nature.
    """

    maximum: float

    def __call__(self, document: Document) -> Verdict:
        """Judge by the share of characters in lines seen before."""
        seen: set[str] = set()
        repeated = total = 0
        for line in map(str.strip, document.text.splitlines()):
            if not any(map(str.isalnum, line)):
                continue
            total += len(line)
            if line in seen:
                repeated += len(line)
            seen.add(line)
        return True if repeated <= self.maximum * total else (False, "repeated lines")


@dataclass(frozen=True)
class AllowedLicense:
    """Drops documents under a licence that is not on the list."""

    allowed: Collection[str]

    def __call__(self, document: Document) -> Verdict:
        """Judge by the document's licence, without regard to case."""
        allowed = {license_name.casefold() for license_name in self.allowed}
        return True if document.metadata["license"].casefold() in allowed else (False, "license not allowed")
