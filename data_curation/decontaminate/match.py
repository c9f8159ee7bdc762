"""Finding benchmark texts in documents by runs of words.

Two rules: a run of 13 words in common (GPT-3, arXiv 2005.14165, appendix C), and four fifths of a
question's runs of 8 words (MEDITRON, arXiv 2311.16079, for its explanations).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data_curation.decontaminate.benchmarks import Item
from data_curation.ngrams import WORD, Hashes, ngram_hashes, word_hashes

LONG, SHORT = 13, 8
SHARE = 0.8


@dataclass(kw_only=True)
class Hit:
    """A run of words that a document shares with a benchmark text."""

    width: int
    """LONG or SHORT."""
    gram: int
    """Hash of the run."""
    items: list[int]
    """Positions of the benchmark texts that have it."""
    start: int
    """First character in the document."""
    end: int
    """One past the last."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return vars(self)


@dataclass(kw_only=True)
class Index:
    """Runs of words of all benchmark texts."""

    items: Sequence[Item]
    """The texts."""
    grams: dict[int, dict[int, list[int]]] = field(default_factory=dict)
    """Width to hash to the positions of the texts that have it."""
    sizes: list[int] = field(default_factory=list)
    """Distinct runs of SHORT words of each text."""
    _sorted: dict[int, Hashes] = field(default_factory=dict)

    def find(self, text: str) -> list[Hit]:
        """Every run of words that a document shares with a benchmark text, in order."""
        words = word_hashes(text)
        places = {width: self._places(ngram_hashes(words, width), width) for width in (LONG, SHORT)}
        if not any(len(found) for found, _ in places.values()):
            return []
        spans = [match.span() for match in WORD.finditer(text)]
        return [
            Hit(
                width=width,
                gram=gram,
                items=self.grams[width][gram],
                start=spans[place][0],
                end=spans[place + width - 1][1],
            )
            for width, (found, grams) in places.items()
            for place, gram in zip(found.tolist(), grams.tolist(), strict=True)
        ]

    def _places(self, hashes: Hashes, width: int) -> tuple[Any, Hashes]:
        known = self._sorted[width]
        if not len(known) or not len(hashes):
            return np.empty(0, np.int64), hashes[:0]
        nearest = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        found = np.flatnonzero(known[nearest] == hashes)
        return found, hashes[found]


def build_index(items: Sequence[Item]) -> Index:
    """Index benchmark texts; those shorter than SHORT words cannot be told from common wording."""
    index = Index(items=items, grams={LONG: {}, SHORT: {}})
    for position, item in enumerate(items):
        words = word_hashes(item.text)
        for width in (LONG, SHORT):
            grams = np.unique(ngram_hashes(words, width)).tolist()
            for gram in grams:
                index.grams[width].setdefault(gram, []).append(position)
        index.sizes.append(len(grams))
    index._sorted = {
        width: np.sort(np.fromiter(grams, dtype=np.uint64, count=len(grams)))
        for width, grams in index.grams.items()
    }
    return index


def judge(hits: Iterable[Hit], index: Index, common: set[int]) -> dict[int, tuple[str, list[Hit]]]:
    """The benchmark texts that a document holds, by position: the rule, and the hits that show it.

    Args:
        hits: of one document.
        index: what it was held against.
        common: runs of words that are common wording and prove nothing.
    """
    found: dict[int, tuple[str, list[Hit]]] = {}
    by_item: dict[tuple[int, int], list[Hit]] = {}
    for hit in hits:
        if hit.gram not in common:
            for item in hit.items:
                by_item.setdefault((item, hit.width), []).append(hit)
    for (item, width), own in by_item.items():
        distinct = len({hit.gram for hit in own})
        if width == LONG:
            found[item] = ("13 words in a row", own)
        elif distinct >= SHARE * index.sizes[item]:
            found.setdefault(item, ("80% of the runs of 8 words", own))
    return found


def common_runs(documents: Iterable[Iterable[Hit]], max_documents: int) -> set[int]:
    """Runs of words that more than `max_documents` documents have."""
    counts: Counter[int] = Counter()
    for hits in documents:
        counts.update({hit.gram for hit in hits})
    return {gram for gram, count in counts.items() if count > max_documents}
