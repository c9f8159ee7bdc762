"""Between the passes: which documents stay, on which side, and of which kept one a dropped one is a copy."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_curation.decontaminate.verdict import Benchmarks, dropped_mask, find_contamination
from data_curation.dedup.find import NEAR, RULES, Keeping, find_duplicates
from data_curation.executor import Runner
from data_curation.ledger import Ledger
from data_curation.parts import read_fixed, read_ids
from data_curation.plan import Plan
from data_curation.split import DROPPED, assign_split, split_positions
from meditron.config import CurateConfig, Recipe
from meditron.files import atomic_write

BENCHMARK = "benchmark question"
IDS_IN_MEMORY = 1_000_000


@dataclass(kw_only=True)
class Decisions:
    """What was dropped with all documents known."""

    benchmarks: dict[str, dict[str, int]] = field(default_factory=dict)
    """Benchmark to what was looked for and found."""
    by_source: dict[str, Counter[str]] = field(default_factory=dict)
    """Source to rule to number of dropped documents."""

    def count(self, source: str, rule: str) -> None:
        """Count one dropped document."""
        self.by_source.setdefault(source, Counter())[rule] += 1


def decide(
    plan: Plan, recipe: Recipe, work: Path, runner: Runner, benchmarks: Benchmarks | None
) -> Decisions:
    """Write each chunk's decisions (`<chunk>.npy`, uint8 a document) and what they rest on.

    This process works on about 150 bytes a document; `runner` does what needs the signatures, and texts
    are not read. All goes to `<work>/decisions`.
    """
    config, parts, folder = recipe.curate, work / "parts", work / "decisions"
    decisions = Decisions()
    files = [parts / f"{chunk.name}.parquet" for chunk in plan.chunks]
    keys_of = [read_fixed(file, "key", "<u8") for file in files]
    bounds = np.cumsum([0, *map(len, keys_of)])
    keys = np.concatenate(keys_of)
    del keys_of  # 16 bytes a document
    excluded = np.zeros(len(keys), dtype=np.bool_)
    if benchmarks is not None:
        contamination = find_contamination(plan, config.decontaminate, benchmarks, parts, folder)
        excluded = dropped_mask(contamination, plan, bounds)
        decisions.benchmarks = contamination.benchmarks
        for chunk, _ in contamination.dropped:
            decisions.count(chunk.rpartition("-")[0], BENCHMARK)
    keeping = find_duplicates(keys, excluded, files, bounds, config.dedup, work / "near", runner)
    _write_sides(plan, config, keys, keeping, folder, bounds, recipe.seed)
    _write_duplicates(plan, parts, folder / "duplicates.jsonl", keeping, bounds, decisions)
    return decisions


def _write_sides(
    plan: Plan,
    config: CurateConfig,
    keys: npt.NDArray[np.uint64],
    keeping: Keeping,
    folder: Path,
    bounds: npt.NDArray[np.int64],
    seed: int,
) -> None:
    """Train, validation or dropped for each document, a file for each chunk."""
    kept = np.zeros(len(keys), dtype=np.bool_)
    kept[keeping.members] = True
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


def _fraction(plan: Plan, config: CurateConfig, source: str) -> float:
    own = plan.sources[source].validation_fraction
    return config.validation_fraction if own is None else own


def _write_duplicates(
    plan: Plan,
    parts: Path,
    path: Path,
    keeping: Keeping,
    bounds: npt.NDArray[np.int64],
    decisions: Decisions,
) -> None:
    """One line for each dropped document, naming the kept one; only the ids of these are read."""
    dropped = np.flatnonzero(keeping.kept != np.arange(len(keeping.kept)))
    with atomic_write(path) as handle:
        for start in range(0, len(dropped), IDS_IN_MEMORY):
            for record in _records(plan, parts, keeping, dropped[start : start + IDS_IN_MEMORY], bounds):
                handle.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
                decisions.count(record["source"], record["rule"])


def _records(
    plan: Plan,
    parts: Path,
    keeping: Keeping,
    dropped: npt.NDArray[np.int64],
    bounds: npt.NDArray[np.int64],
) -> Iterator[dict[str, Any]]:
    names = _ids_at(plan, parts, np.union1d(dropped, keeping.kept[dropped]), bounds)
    for index in dropped.tolist():
        kept_id, rule = names[keeping.kept[index]], RULES[keeping.rule[index]]
        yield {
            "id": names[index],
            "source": names[index].split("/", 1)[0],
            "kept_id": kept_id,
            "kept_source": kept_id.split("/", 1)[0],
            "rule": rule,
            **({"similarity": round(float(keeping.similarity[index]), 3)} if rule == NEAR else {}),
        }


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
