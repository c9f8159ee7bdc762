"""All rules of deduplication, one after the other, and who was kept for whom."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_curation.dedup.exact import first_occurrences
from data_curation.dedup.stages import SignatureFiles, find_near_duplicates
from data_curation.dedup.work import same_works
from data_curation.executor import Runner
from data_curation.parts import read_fixed, read_lengths
from meditron.config import DedupConfig

EXACT, SAME_WORK, NEAR = "exact duplicate", "same work", "near duplicate"
RULES = ("", EXACT, SAME_WORK, NEAR)


@dataclass(kw_only=True)
class Keeping:
    """For each document the one that is kept in its place, and why; all arrays [documents]."""

    kept: npt.NDArray[np.int64]
    """Position of the kept document: its own where it is kept."""
    rule: npt.NDArray[np.uint8]
    """Index into `RULES` of the rule that dropped it."""
    similarity: npt.NDArray[np.float32]
    """Estimated similarity to the kept document."""
    excluded: npt.NDArray[np.bool_]
    """Which documents are left out for another reason, and are nobody's copy."""

    @property
    def members(self) -> npt.NDArray[np.int64]:
        """Positions of the documents that stay."""
        return np.flatnonzero((self.kept == np.arange(len(self.kept))) & ~self.excluded)

    def drop(self, kept: npt.NDArray[np.int64], rule: str) -> None:
        """Apply a further rule's verdict on the documents that were kept so far."""
        gone = np.flatnonzero((kept != np.arange(len(kept))) & ~self.excluded)
        self.kept[gone] = kept[gone]
        self.rule[gone] = RULES.index(rule)
        while np.any(moved := self.kept[self.kept] != self.kept):  # kept for others, and now gone itself
            self.kept[moved] = self.kept[self.kept[moved]]


def find_duplicates(
    keys: npt.NDArray[np.uint64],
    excluded: npt.NDArray[np.bool_],
    files: list[Path],
    bounds: npt.NDArray[np.int64],
    config: DedupConfig,
    folder: Path,
    runner: Runner,
) -> Keeping:
    """Exact copies, then copies of a work, then near-duplicates, each among what is left.

    Args:
        keys: [documents, 2], what equal documents share.
        excluded: [documents], which are left out for another reason.
        files: parts of the first pass, in order.
        bounds: [files + 1], position of the first document of each, and the number of documents.
        config: what counts as the same.
        folder: for what the stages of near-duplicates hand on.
        runner: runs these stages.
    """
    exact = first_occurrences(keys)
    keeping = Keeping(
        kept=np.arange(len(keys)),
        rule=np.zeros(len(keys), dtype=np.uint8),
        similarity=np.ones(len(keys), dtype=np.float32),
        excluded=excluded,
    )
    keeping.drop(exact, EXACT)
    if config.same_work != "off":
        works = np.concatenate([read_fixed(file, "work", "<u8") for file in files])
        lengths = np.concatenate([read_lengths(file) for file in files])
        longest = config.same_work == "full_text"
        keeping.drop(same_works(works, keeping.members, lengths, prefer_longest=longest), SAME_WORK)
    if config.near:
        signatures = SignatureFiles([file.with_suffix(".signatures") for file in files], bounds)
        members = np.zeros(len(keys), dtype=np.bool_)
        members[keeping.members] = True
        near, keeping.similarity = find_near_duplicates(
            signatures, members, config.similarity, folder, runner
        )
        keeping.drop(near, NEAR)
    return keeping
