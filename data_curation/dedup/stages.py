"""Near-duplicates in tasks that share the work over processes and machines, on bounded memory.

Four stages, as datatrove has them:
  1. signatures of each chunk, made with its documents (`extract.py`)
  2. `FindCandidates`: documents that agree in a band, one band at a time and, where there are many
     documents, one part of its keys
  3. `ComparePairs`: candidates held against each other, a run of chunks at a time; the few that are
     similar are decided on in order by one process (`near.keep_first`)
  4. the documents that stay, written chunk by chunk (`publish.py`)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from datatrove.pipeline.base import PipelineStep

from data_curation.dedup.near import (
    BANDS,
    PERMUTATIONS,
    Signatures,
    band_keys,
    candidate_pairs,
    close_pairs,
    distinct,
    estimated,
    keep_first,
)
from data_curation.executor import Runner
from meditron.files import atomic_write

_Unit = TypeVar("_Unit")
KEYS_IN_MEMORY = 4_000_000
"""Documents whose keys of one band are sorted at once, at about 60 bytes each."""
KEYS_PER_TASK = 4_000_000
"""Keys that are worth a task of their own; fewer tasks where there are fewer."""
PAIRS_PER_TASK = 200_000
"""Candidates that are worth a task of their own."""
BLOCK = 16_384
"""Signatures that are read, or pairs of them compared, at once; at 480 bytes a signature."""


@dataclass(frozen=True)
class SignatureFiles:
    """The signatures of all documents."""

    paths: Sequence[Path]
    """A file for each chunk, in order."""
    bounds: npt.NDArray[np.int64]
    """[chunks + 1], position of the first document of each chunk, and the number of documents."""

    def blocks(self) -> Iterator[tuple[int, Signatures]]:
        """All of them, some thousands at a time, each time with the position of the first."""
        for path, start in zip(self.paths, self.bounds.tolist(), strict=False):
            with open(path, "rb") as handle:
                while len(block := np.fromfile(handle, dtype="<u4", count=BLOCK * PERMUTATIONS)):
                    rows = block.reshape(-1, PERMUTATIONS)
                    yield start, rows
                    start += len(rows)

    def rows(self, positions: npt.NDArray[np.int64]) -> Signatures:
        """Those of the documents at some positions, [positions, PERMUTATIONS]."""
        rows = np.empty((len(positions), PERMUTATIONS), dtype=np.uint32)
        chunks = np.searchsorted(self.bounds, positions, side="right") - 1
        for number in np.unique(chunks).tolist():
            here = chunks == number
            mapped = np.memmap(self.paths[number], dtype="<u4", mode="r").reshape(-1, PERMUTATIONS)
            rows[here] = mapped[positions[here] - self.bounds[number]]
        return rows


class FindCandidates(PipelineStep):  # type: ignore[misc]
    """Pairs of documents with a band in common: `<band>-<part>.npy`, [pairs, 2].

    Args:
        files: all signatures.
        members: file of a mask, [documents]: which of them to look at.
        folder: where the pairs go.
    """

    name = "find candidates"
    type = "dedup"

    def __init__(self, files: SignatureFiles, members: Path, folder: Path) -> None:
        super().__init__()
        self._files, self._members, self._folder = files, members, folder
        self._parts = max(ceil(files.bounds[-1] / KEYS_IN_MEMORY), 1)

    @property
    def units(self) -> list[tuple[int, int]]:
        """Every band, and every part of its keys."""
        return [(band, part) for band in range(BANDS) for part in range(self._parts)]

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:  # noqa: ANN401
        """Write the pairs of the task's share of the bands."""
        members = np.load(self._members, mmap_mode="r")
        for band, part in share(self.units, rank, world_size):
            with self.track_time("band"):
                keys, positions = self._keys(members, band, part)
                save_array(self._folder / f"{band:02d}-{part:04d}.npy", candidate_pairs(keys, positions))
        yield from ()

    def _keys(
        self, members: npt.NDArray[np.bool_], band: int, part: int
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        """Keys that belong to the part, and the positions of their documents."""
        keys, positions = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for start, signatures in self._files.blocks():
            own = band_keys(signatures, band)
            mine = members[start : start + len(own)] & (own % np.uint64(self._parts) == part)
            keys.append(own[mine])
            positions.append(np.flatnonzero(mine) + start)
        return np.concatenate(keys), np.concatenate(positions)


class ComparePairs(PipelineStep):  # type: ignore[misc]
    """The similar ones among the candidates of each chunk, by their second member: `<chunk>.npy`.

    Args:
        files: all signatures.
        candidates: folder of the pairs.
        similarity: from which two documents are the same.
        folder: where the similar pairs go.
    """

    name = "compare pairs"
    type = "dedup"

    def __init__(self, files: SignatureFiles, candidates: Path, similarity: float, folder: Path) -> None:
        super().__init__()
        self._files, self._candidates, self._similarity = files, candidates, similarity
        self._folder = folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:  # noqa: ANN401
        """Write the similar pairs of the task's share of the chunks."""
        paths = sorted(self._candidates.glob("*.npy"))
        for number in share(range(len(self._files.paths)), rank, world_size):
            with self.track_time("chunk"):
                save_array(similar_file(self._folder, number), self._similar(number, paths))
        yield from ()

    def _similar(self, number: int, candidates: Sequence[Path]) -> npt.NDArray[np.void]:
        """The similar pairs of a chunk."""
        start, stop = self._files.bounds[number : number + 2]
        pairs = distinct(np.concatenate([_of_second(path, start, stop) for path in candidates]))
        blocks = (pairs[n : n + BLOCK] for n in range(0, max(len(pairs), 1), BLOCK))
        return np.concatenate([self._close(block) for block in blocks])

    def _close(self, pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.void]:
        first, second = (self._files.rows(pairs[:, side]) for side in (0, 1))
        return close_pairs(pairs, estimated(first, second), self._similarity)


def _of_second(path: Path, start: int, stop: int) -> npt.NDArray[np.int64]:
    """The pairs of a file whose second member is at `start` and before `stop`."""
    pairs = np.load(path, mmap_mode="r")
    return np.array(pairs[slice(*np.searchsorted(pairs[:, 1], [start, stop]))])


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an array that is there when it is whole."""
    with atomic_write(path) as handle:
        np.save(handle, array)


def similar_file(folder: Path, number: int) -> Path:
    """The similar pairs of a chunk."""
    return folder / f"{number:05d}.npy"


def share(units: Sequence[_Unit], rank: int, tasks: int) -> Sequence[_Unit]:
    """A task's run of consecutive units."""
    return units[rank * len(units) // tasks : (rank + 1) * len(units) // tasks]


def find_near_duplicates(
    files: SignatureFiles, members: npt.NDArray[np.bool_], similarity: float, folder: Path, runner: Runner
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """What `near.near_duplicates` finds, by tasks.

    Args:
        files: all signatures.
        members: [documents], which of them to look at.
        similarity: from which two documents are the same.
        folder: for what passes between the stages.
        runner: runs the tasks.
    """
    for name in ("candidates", "similar"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    save_array(folder / "members.npy", members)
    find = FindCandidates(files, folder / "members.npy", folder / "candidates")
    keys = np.count_nonzero(members) * BANDS
    _run(runner, find, len(find.units), keys / KEYS_PER_TASK, folder.parent / "bands", "near-duplicates")
    pairs = sum(len(np.load(path, mmap_mode="r")) for path in (folder / "candidates").glob("*.npy"))
    compare = ComparePairs(files, folder / "candidates", similarity, folder / "similar")
    _run(runner, compare, len(files.paths), pairs / PAIRS_PER_TASK, folder.parent / "compare", "comparing")
    close = (np.load(similar_file(folder / "similar", number)) for number in range(len(files.paths)))
    return keep_first(len(members), close)


def _run(runner: Runner, step: PipelineStep, units: int, wanted: float, folder: Path, title: str) -> None:
    tasks = min(max(ceil(wanted), 1), units)
    runner.run([step], sizes=[1.0] * tasks, folder=folder, title=title, unit="tasks")
