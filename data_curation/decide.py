"""Between the passes: which documents stay, on which side, and of which kept one a dropped one is a copy."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_curation.dedup.exact import first_occurrences
from data_curation.ledger import Ledger
from data_curation.parts import read_ids, read_keys
from data_curation.plan import Plan
from data_curation.split import DROPPED, assign_split, split_positions
from meditron.config import CurateConfig
from meditron.files import atomic_write

EXACT = "exact duplicate"


@dataclass(kw_only=True)
class Duplicates:
    """What deduplication dropped."""

    by_source: dict[str, Counter[str]] = field(default_factory=dict)
    """Source to rule to number of dropped documents."""

    def count(self, source: str, rule: str) -> None:
        """Count one dropped document."""
        self.by_source.setdefault(source, Counter())[rule] += 1


def decide(plan: Plan, config: CurateConfig, parts: Path, folder: Path, seed: int) -> Duplicates:
    """Write each chunk's decisions (`<chunk>.npy`, uint8 a document) and `duplicates.jsonl` to `folder`.

    Works on 16 bytes a document; texts are not read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keys_of = [read_keys(parts / f"{chunk.name}.parquet") for chunk in plan.chunks]
    bounds = np.cumsum([0, *map(len, keys_of)])
    keys = np.concatenate(keys_of)
    first = first_occurrences(keys)
    kept = first == np.arange(len(first))
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
    return _write_duplicates(plan, parts, folder / "duplicates.jsonl", first, bounds)


def _fraction(plan: Plan, config: CurateConfig, source: str) -> float:
    own = plan.sources[source].validation_fraction
    return config.validation_fraction if own is None else own


def _write_duplicates(
    plan: Plan,
    parts: Path,
    path: Path,
    first: npt.NDArray[np.int64],
    bounds: npt.NDArray[np.int64],
) -> Duplicates:
    """One line for each dropped document, naming the kept one; ids are read for these two only."""
    dropped = np.flatnonzero(first != np.arange(len(first)))
    names = _ids_at(plan, parts, np.union1d(dropped, first[dropped]), bounds)
    duplicates = Duplicates()
    with atomic_write(path) as handle:
        for index in dropped.tolist():
            source, kept_source = names[index].split("/", 1)[0], names[first[index]].split("/", 1)[0]
            record = {
                "id": names[index],
                "source": source,
                "kept_id": names[first[index]],
                "kept_source": kept_source,
                "rule": EXACT,
            }
            handle.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            duplicates.count(source, EXACT)
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
