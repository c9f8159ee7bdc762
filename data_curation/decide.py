"""Between the passes: which documents stay, on which side, and of which kept one a dropped one is a copy."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_curation.dedup.exact import first_occurrences
from data_curation.dedup.near import PERMUTATIONS, Signatures, near_duplicates
from data_curation.dedup.work import same_works
from data_curation.ledger import Ledger
from data_curation.parts import read_fixed, read_ids, read_lengths
from data_curation.plan import Plan
from data_curation.split import DROPPED, assign_split, split_positions
from meditron.config import CurateConfig, DedupConfig
from meditron.files import atomic_write, disk_errors

EXACT, SAME_WORK, NEAR = "exact duplicate", "same work", "near duplicate"
_RULES = ("", EXACT, SAME_WORK, NEAR)


@dataclass(kw_only=True)
class Duplicates:
    """What deduplication dropped."""

    by_source: dict[str, Counter[str]] = field(default_factory=dict)
    """Source to rule to number of dropped documents."""

    def count(self, source: str, rule: str) -> None:
        """Count one dropped document."""
        self.by_source.setdefault(source, Counter())[rule] += 1


@dataclass(kw_only=True)
class Keeping:
    """For each document the one that is kept in its place, and why; all arrays [documents]."""

    kept: npt.NDArray[np.int64]
    """Position of the kept document: its own where it is kept."""
    rule: npt.NDArray[np.uint8]
    """Index into `_RULES` of the rule that dropped it."""
    similarity: npt.NDArray[np.float64]
    """Estimated similarity to the kept document."""

    @property
    def members(self) -> npt.NDArray[np.int64]:
        """Positions of the kept documents."""
        return np.flatnonzero(self.kept == np.arange(len(self.kept)))

    def drop(self, kept: npt.NDArray[np.int64], rule: str) -> None:
        """Apply a further rule's verdict on the documents that were kept so far."""
        gone = np.flatnonzero(kept != np.arange(len(kept)))
        self.kept[gone] = kept[gone]
        self.rule[gone] = _RULES.index(rule)
        while np.any(moved := self.kept[self.kept] != self.kept):  # kept for others, and now gone itself
            self.kept[moved] = self.kept[self.kept[moved]]


def decide(plan: Plan, config: CurateConfig, parts: Path, folder: Path, seed: int) -> Duplicates:
    """Write each chunk's decisions (`<chunk>.npy`, uint8 a document) and `duplicates.jsonl` to `folder`.

    Works on about 100 bytes a document, and signatures on disk; texts are only measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [parts / f"{chunk.name}.parquet" for chunk in plan.chunks]
    keys_of = [read_fixed(file, "key", "<u8") for file in files]
    bounds = np.cumsum([0, *map(len, keys_of)])
    keys = np.concatenate(keys_of)
    keeping = find_duplicates(keys, files, config.dedup, folder)
    kept = keeping.kept == np.arange(len(keys))
    sides = np.full(len(keys), DROPPED, dtype=np.uint8)
    positions = split_positions(keys, seed)
    for name in plan.sources:
        members = np.concatenate(
            [np.arange(bounds[c.index], bounds[c.index + 1]) for c in plan.chunks if c.source == name]
        )
        members = members[kept[members]]
        sides[members] = assign_split(positions[members], _fraction(plan, config, name))
    for chunk in plan.chunks:
        np.save(folder / f"{chunk.name}.npy", sides[bounds[chunk.index] : bounds[chunk.index + 1]])
    return _write_duplicates(plan, parts, folder / "duplicates.jsonl", keeping, bounds)


def find_duplicates(
    keys: npt.NDArray[np.uint64], files: list[Path], config: DedupConfig, folder: Path
) -> Keeping:
    """Exact copies, then copies of a work, then near-duplicates, each among what is left."""
    exact = first_occurrences(keys)
    keeping = Keeping(
        kept=np.arange(len(keys)),
        rule=np.zeros(len(keys), dtype=np.uint8),
        similarity=np.ones(len(keys)),
    )
    keeping.drop(exact, EXACT)
    if config.same_work != "off":
        works = np.concatenate([read_fixed(file, "work", "<u8") for file in files])
        lengths = np.concatenate([read_lengths(file) for file in files])
        longest = config.same_work == "full_text"
        keeping.drop(same_works(works, keeping.members, lengths, prefer_longest=longest), SAME_WORK)
    if config.near:
        signatures = _map_signatures(files, len(keys), folder / "signatures.npy")
        near, keeping.similarity = near_duplicates(signatures, keeping.members, config.similarity)
        keeping.drop(near, NEAR)
    return keeping


def _map_signatures(files: list[Path], documents: int, path: Path) -> Signatures:
    """All signatures as a file in memory's place: 480 bytes a document."""
    if documents == 0:
        return np.empty((0, PERMUTATIONS), dtype=np.uint32)
    with disk_errors(path):
        mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint32, shape=(documents, PERMUTATIONS))
        start = 0
        for file in files:
            own = read_fixed(file, "signature", "<u4")
            mapped[start : start + len(own)] = own
            start += len(own)
    return mapped


def _fraction(plan: Plan, config: CurateConfig, source: str) -> float:
    own = plan.sources[source].validation_fraction
    return config.validation_fraction if own is None else own


def _write_duplicates(
    plan: Plan,
    parts: Path,
    path: Path,
    keeping: Keeping,
    bounds: npt.NDArray[np.int64],
) -> Duplicates:
    """One line for each dropped document, naming the kept one; ids are read for these two only."""
    dropped = np.flatnonzero(keeping.rule)
    names = _ids_at(plan, parts, np.union1d(dropped, keeping.kept[dropped]), bounds)
    duplicates = Duplicates()
    with atomic_write(path) as handle:
        for index in dropped.tolist():
            kept_id, rule = names[keeping.kept[index]], _RULES[keeping.rule[index]]
            source = names[index].split("/", 1)[0]
            record = {
                "id": names[index],
                "source": source,
                "kept_id": kept_id,
                "kept_source": kept_id.split("/", 1)[0],
                "rule": rule,
                **({"similarity": round(float(keeping.similarity[index]), 3)} if rule == NEAR else {}),
            }
            handle.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            duplicates.count(source, rule)
    return duplicates


def _ids_at(
    plan: Plan, parts: Path, wanted: npt.NDArray[np.int64], bounds: npt.NDArray[np.int64]
) -> dict[int, str]:
    """Ids of the documents at the wanted positions."""
    ids: dict[int, str] = {}
    for chunk in plan.chunks:
        start, stop = bounds[chunk.index], bounds[chunk.index + 1]
        here = wanted[(wanted >= start) & (wanted < stop)]
        if len(here):
            column = read_ids(parts / f"{chunk.name}.parquet")
            ids.update((int(index), column[index - start].as_py()) for index in here)
    return ids


def load_ledgers(plan: Plan, parts: Path, source: str) -> list[Ledger]:
    """Ledgers of a source's chunks, in order."""
    return [Ledger.load(parts / f"{chunk.name}.json") for chunk in plan.chunks if chunk.source == source]
