"""What the quality rules measure, each figure computed when it is first asked for."""

import re
from functools import cached_property

import numpy as np
import numpy.typing as npt
import xxhash

from data_curation.ngrams import Hashes, ngram_hashes

_STOP_WORDS = frozenset(["the", "be", "to", "of", "and", "that", "have", "with"])
_ENDS = tuple(".?!\"'”’…:;。！？")
_PARAGRAPHS = re.compile(r"\n{2,}")
_SHORT_LINE = 30
_REMEMBERED_WORDS = 2**19
_SYMBOL, _LETTERS = 1 << 20, 1 << 21  # flags above the length, below the hash
_FACT_BITS = (1 << 22) - 1


class _WordFacts(dict[str, int]):
    """Of each word a hash in the upper 42 bits, below it flags (all symbols, has a letter) and its length."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _REMEMBERED_WORDS:
            self.clear()
        facts = 0 if any(map(str.isalnum, word)) else _SYMBOL
        facts |= _LETTERS if any(map(str.isalpha, word)) else 0
        facts |= min(len(word), _SYMBOL - 1)
        code = xxhash.xxh3_64_intdigest(word.encode("utf-8", "surrogatepass"))
        self[word] = (code & ~_FACT_BITS) | facts
        return self[word]


_FACTS = _WordFacts()


def _repeats(pieces: list[str]) -> tuple[int, int]:
    """Pieces that were there before, and their characters."""
    again = sum(map(len, pieces)) - sum(map(len, set(pieces)))
    return len(pieces) - len(set(pieces)), again


class Measures:
    """Figures of one text; shares are of the text's words, lines or characters.

    Args:
        text: any text.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._split = text.split()
        self._hashes: Hashes = np.fromiter(map(_FACTS.__getitem__, self._split), np.uint64, len(self._split))
        facts = (self._hashes & np.uint64(_FACT_BITS)).astype(np.int64)
        self._lengths = facts & (_SYMBOL - 1)
        self._plain = (facts & _SYMBOL) == 0
        self._lettered = (facts & _LETTERS) != 0
        self._repeated: dict[int, npt.NDArray[np.int64]] = {}

    @property
    def words(self) -> float:
        """Words that are not symbols throughout."""
        return float(np.count_nonzero(self._plain))

    @property
    def mean_word(self) -> float:
        """Their mean length, characters."""
        return float(self._lengths[self._plain].mean()) if self.words else 0.0

    @property
    def hashes(self) -> float:
        """`#` a word."""
        return self._text.count("#") / max(len(self._split), 1)

    @property
    def ellipses(self) -> float:
        """Ellipses a word."""
        return (self._text.count("...") + self._text.count("…")) / max(len(self._split), 1)

    @cached_property
    def _lines(self) -> list[str]:
        return [line for line in self._text.splitlines() if line.strip()]

    def _share(self, count: int) -> float:
        return count / max(len(self._lines), 1)

    @property
    def bullet_lines(self) -> float:
        """Share of the lines that begin with a bullet."""
        return self._share(sum(line.lstrip().startswith(("•", "-", "*")) for line in self._lines))

    @property
    def ellipsis_lines(self) -> float:
        """Share of the lines that end in an ellipsis."""
        return self._share(sum(line.rstrip().endswith(("...", "…")) for line in self._lines))

    @property
    def ended_lines(self) -> float:
        """Share of the lines that end in punctuation."""
        return self._share(sum(line.endswith(_ENDS) for line in self._lines))

    @property
    def short_lines(self) -> float:
        """Share of the lines of at most 30 characters."""
        return self._share(sum(len(line) <= _SHORT_LINE for line in self._lines))

    @property
    def line_breaks(self) -> float:
        """Line breaks a word."""
        return self._text.count("\n") / max(len(self._split), 1)

    @property
    def alphabetic(self) -> float:
        """Share of the words that have a letter; the borders of a table are words too."""
        return float(np.mean(self._lettered)) if len(self._lettered) else 0.0

    @property
    def stop_words(self) -> float:
        """How many of Gopher's eight common words are there."""
        return float(len(_STOP_WORDS.intersection(self._split)))

    @property
    def braces(self) -> float:
        """Curly brackets."""
        return float(self._text.count("{"))

    @property
    def placeholder(self) -> float:
        """Mentions of `lorem ipsum`."""
        return float(self._text.casefold().count("lorem ipsum"))

    @cached_property
    def _line_repeats(self) -> tuple[int, int]:
        return _repeats(self._lines)

    @property
    def repeated_lines(self) -> float:
        """Share of the lines that were there before."""
        return self._share(self._line_repeats[0])

    @property
    def repeated_chars(self) -> float:
        """Share of the characters, line breaks aside, that are in such lines."""
        return self._line_repeats[1] / max(len(self._text) - self._text.count("\n"), 1)

    @property
    def repeated_paragraphs(self) -> float:
        """Share of the paragraphs that were there before."""
        paragraphs = _PARAGRAPHS.split(self._text.strip())
        return _repeats(paragraphs)[0] / len(paragraphs)

    def top_ngram(self, width: int) -> float:
        """Share of the characters in the most frequent run of `width` words."""
        hashes = ngram_hashes(self._hashes, width)
        if not len(hashes):
            return 0.0
        _, firsts, counts = np.unique(hashes, return_index=True, return_counts=True)
        most = counts == counts.max()
        # Of equally frequent ones the first in the text, as a counter would have it.
        first = int(firsts[most].min())
        length = int(self._lengths[first : first + width].sum()) + width - 1
        return length * int(counts.max()) / max(len(self._text), 1)

    def repeated_ngrams(self, width: int) -> float:
        """Share of the characters in runs of `width` words that were there before, none counted twice."""
        places = self._places(width)
        if not len(places):
            return 0.0
        codes = ngram_hashes(self._hashes, width)[places].tolist()
        seen: set[int] = set()
        end = repeated = 0
        for place, code in zip(places.tolist(), codes, strict=True):
            if place < end:
                continue
            if code in seen:
                repeated += int(self._lengths[place : place + width].sum())
                end = place + width
            seen.add(code)
        return repeated / max(len(self._text), 1)

    def _places(self, width: int) -> npt.NDArray[np.int64]:
        """Where a run begins that occurs twice or more; what occurs once cannot repeat, or be repeated."""
        if width not in self._repeated:
            count = max(len(self._hashes) - width + 1, 0)
            places = self._repeated.get(width - 1, np.arange(count))
            if not len(places):
                return places
            hashes = ngram_hashes(self._hashes, width)
            places = places[places < len(hashes)]  # a run that recurs begins with one that does
            _, inverse, counts = np.unique(hashes[places], return_inverse=True, return_counts=True)
            self._repeated[width] = places[counts[inverse] > 1]
        return self._repeated[width]
