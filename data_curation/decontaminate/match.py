"""Finding benchmark texts in documents by runs of words.

Two rules: a run of 13 words in common (GPT-3, arXiv 2005.14165, appendix C), and four fifths of a
question's runs of 8 words (MEDITRON, arXiv 2311.16079, for its explanations).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data_curation.decontaminate.benchmarks import Item
from data_curation.ngrams import WORD, Hashes, ngram_hashes, word_hashes

LONG, SHORT = 13, 8
SHARE = 0.8
_HEAD_BITS = 20
_HEAD = np.uint64(64 - _HEAD_BITS)


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
class Runs:
    """Runs of words of one width in all benchmark texts; arrays, so that workers get them cheaply."""

    width: int
    """Words of a run."""
    hashes: Hashes
    """[runs], distinct and ascending."""
    bounds: npt.NDArray[np.int64]
    """[runs + 1], where the texts of each run begin in `items`."""
    items: npt.NDArray[np.int32]
    """Positions of the texts that have a run, run after run."""
    sizes: npt.NDArray[np.int32]
    """[texts], distinct runs of each text."""
    present: npt.NDArray[np.bool_]
    """[2^20], whether a run's hash begins with these bits: rules nearly all of a document out at once."""

    def find(self, words: Hashes, spans: Sequence[tuple[int, int]] | None) -> list[Hit]:
        """Runs of a document that a benchmark text has, in order; without `spans` only whether there are."""
        hashes = ngram_hashes(words, self.width)
        likely = np.flatnonzero(self.present[hashes >> _HEAD])
        if not len(likely):
            return []
        nearest = np.minimum(np.searchsorted(self.hashes, hashes[likely]), len(self.hashes) - 1)
        same = self.hashes[nearest] == hashes[likely]
        places = zip(likely[same].tolist(), nearest[same].tolist(), strict=True)
        return [
            Hit(
                width=self.width,
                gram=int(hashes[place]),
                items=self.items[self.bounds[run] : self.bounds[run + 1]].tolist(),
                start=spans[place][0] if spans else 0,
                end=spans[place + self.width - 1][1] if spans else 0,
            )
            for place, run in places
        ]


@dataclass(kw_only=True)
class Index:
    """What documents are held against."""

    long: Runs
    """Runs of LONG words."""
    short: Runs
    """Runs of SHORT words."""

    def __deepcopy__(self, _: object) -> "Index":
        """Itself: nothing changes it, and each task's copy of the pipeline would copy it too."""
        return self

    def find(self, text: str) -> list[Hit]:
        """Every run of words that a document shares with a benchmark text, in order."""
        words = word_hashes(text)
        # A run of 13 words holds runs of 8, so without one of those there is nothing to find.
        if not self.short.find(words, None):
            return []
        spans = [match.span() for match in WORD.finditer(text)]
        return [*self.long.find(words, spans), *self.short.find(words, spans)]


def build_index(items: Sequence[Item]) -> Index:
    """Index benchmark texts; those shorter than SHORT words cannot be told from common wording."""
    words = [word_hashes(item.text) for item in items]
    return Index(long=_runs(words, LONG), short=_runs(words, SHORT))


def _runs(words: Sequence[Hashes], width: int) -> Runs:
    grams = [np.unique(ngram_hashes(own, width)) for own in words]
    sizes = np.fromiter(map(len, grams), dtype=np.int32, count=len(grams))
    joined = np.concatenate([np.empty(0, np.uint64), *grams])
    owners = np.repeat(np.arange(len(grams), dtype=np.int32), sizes)
    order = np.argsort(joined, kind="stable")
    hashes, starts = np.unique(joined[order], return_index=True)
    bounds = np.append(starts, len(joined)).astype(np.int64)
    present = np.zeros(1 << _HEAD_BITS, dtype=np.bool_)
    present[hashes >> _HEAD] = True
    return Runs(width=width, hashes=hashes, bounds=bounds, items=owners[order], sizes=sizes, present=present)


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
        elif distinct >= SHARE * index.short.sizes[item]:
            found.setdefault(item, ("80% of the runs of 8 words", own))
    return found


def common_runs(documents: Iterable[Iterable[Hit]], max_documents: int) -> set[int]:
    """Runs of words that more than `max_documents` documents have."""
    counts: Counter[int] = Counter()
    for hits in documents:
        counts.update({hit.gram for hit in hits})
    return {gram for gram, count in counts.items() if count > max_documents}
