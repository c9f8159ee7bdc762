"""Near-duplicates by tasks over files find what the method finds in memory, however the work is cut."""

from pathlib import Path

import numpy as np
import pytest

from data_curation.dedup import stages
from data_curation.dedup.near import PERMUTATIONS, Signatures, near_duplicates
from data_curation.dedup.stages import SignatureFiles, find_near_duplicates, share
from data_curation.executor import Runner
from meditron.config import CurateConfig, LaunchConfig

SIZES = (7, 0, 20, 1, 32)
"""Documents of each file."""


def random_signatures() -> Signatures:
    """Documents in families of about three, whose members differ in a tenth of their entries."""
    generator = np.random.default_rng(0)
    families = generator.integers(0, 2**32, (sum(SIZES) // 3, PERMUTATIONS), dtype=np.uint32)
    signatures = families[generator.integers(0, len(families), sum(SIZES))]
    changed = generator.random(signatures.shape) < generator.choice([0.02, 0.1, 0.25], (len(signatures), 1))
    return np.where(changed, generator.integers(0, 2**32, signatures.shape, dtype=np.uint32), signatures)


def written(signatures: Signatures, folder: Path) -> SignatureFiles:
    bounds = np.cumsum([0, *SIZES])
    paths = [folder / f"{number}.signatures" for number in range(len(SIZES))]
    for path, start, stop in zip(paths, bounds[:-1], bounds[1:], strict=True):
        path.write_bytes(signatures[start:stop].tobytes())
    return SignatureFiles(paths, bounds)


@pytest.mark.parametrize("cut", ["one task", "tasks for parts of the keys"])
def test_tasks_find_what_is_found_in_memory(
    cut: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signatures = random_signatures()
    members = np.random.default_rng(1).random(len(signatures)) < 0.9
    if cut != "one task":
        for name, value in {
            "KEYS_IN_MEMORY": 25,
            "KEYS_PER_TASK": 90,
            "PAIRS_PER_TASK": 10,
            "BLOCK": 3,
        }.items():
            monkeypatch.setattr(stages, name, value)
    runner = Runner(CurateConfig(), LaunchConfig())
    files = written(signatures, tmp_path)
    kept, alike = find_near_duplicates(files, members, 0.8, tmp_path / "near", runner)
    expected, estimates = near_duplicates(signatures, np.flatnonzero(members), 0.8)
    assert np.count_nonzero(expected != np.arange(len(signatures))) > 5
    assert np.array_equal(kept, expected)
    assert np.array_equal(alike, estimates)
    tasks = [len(list((tmp_path / name / "completions").iterdir())) for name in ("bands", "compare")]
    assert (tasks == [1, 1]) == (cut == "one task")
    pairs = len(list((tmp_path / "near" / "candidates").iterdir()))
    assert pairs == (20 if cut == "one task" else 60)


def test_every_unit_is_in_one_share() -> None:
    for units in range(8):
        for tasks in range(1, 10):
            shares = [unit for rank in range(tasks) for unit in share(range(units), rank, tasks)]
            assert shares == list(range(units))
