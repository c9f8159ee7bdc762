"""Losses that leap, steps that hang, processes that lag, and checkpoints written while training goes on."""

import math
import re
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from meditron.config import Recipe
from meditron.config.loading import dump_recipe
from meditron.config.pretrain import CheckpointConfig, ParallelConfig
from meditron.errors import ConfigError
from meditron.runs import RunFolder
from pretrain.data import TrainingData
from pretrain.engines.megatron import MegatronEngine
from pretrain.engines.writing import MegatronWriting
from pretrain.main import main
from pretrain.spikes import robust_zscore
from pretrain.stragglers import Stragglers
from tests.pretrain.conftest import start_together
from tests.pretrain.test_trainer import file_hashes, losses, steps

LEAP = 17 * 4  # first sample of step 18


def events(recipe: Recipe, kind: str) -> list[dict[str, Any]]:
    return [r for r in RunFolder(str(recipe.pretrain.run_dir)).read_log() if r["event"] == kind]


def test_the_score_is_blind_to_leaps_among_the_recent() -> None:
    recent = [2.0 + 0.01 * (n % 5) for n in range(40)] + [50.0] * 5
    assert abs(robust_zscore(2.02, recent)) < 1
    assert robust_zscore(3.0, recent) > 10
    assert robust_zscore(1.0, recent) < -10
    assert robust_zscore(99.0, recent[:15]) == 0
    assert 0 < robust_zscore(2.0001, [2.0] * 20) < 1


@pytest.fixture
def leaping(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A run whose loss leaps at step 18, once."""
    batch, forward_backward = TrainingData.batch, MegatronEngine.forward_backward
    place = [0]

    def remember(self: TrainingData, start: int, *rest: int) -> Any:
        place[0] = start
        return batch(self, start, *rest)

    def leap(self: MegatronEngine, *tensors: torch.Tensor) -> float:
        return forward_backward(self, *tensors) + (50.0 if place[0] == LEAP else 0.0)

    monkeypatch.setattr(TrainingData, "batch", remember)
    monkeypatch.setattr(MegatronEngine, "forward_backward", leap)
    return recipe


def test_a_leap_is_noted(leaping: Recipe) -> None:
    assert main(leaping) == 0
    assert [r["step"] for r in steps(leaping) if "loss_spike" in r] == [18]
    assert not [r for r in steps(leaping) if r.get("skipped")]


def test_a_leap_is_skipped(leaping: Recipe) -> None:
    leaping.pretrain.fault.loss_spike = "skip"
    assert main(leaping) == 0
    (skipped,) = [r for r in steps(leaping) if r.get("skipped")]
    assert (skipped["step"], skipped["samples"]) == (18, [LEAP, LEAP + 4])
    assert skipped["loss_spike"] > 10
    assert steps(leaping)[-1]["tokens"] == 19 * 4 * 24


def test_a_leap_goes_back_and_leaves_its_samples_out(leaping: Recipe) -> None:
    leaping.pretrain.fault.loss_spike = "rollback"
    assert main(leaping) == 0
    (back,) = events(leaping, "rollback")
    assert (back["step"], back["path"], back["next_sample"]) == (14, "step_00000014", LEAP + 4)
    assert len(steps(leaping)) == 20


HANG = """
import time
from pathlib import Path
from pretrain import watchdog
watchdog.GRACE_SECONDS = 0.0
def stuck():
    time.sleep(60)
with watchdog.Watchdog(3.0, 0.4, 2.0, Path({report!r})) as dog:
    {before}
    stuck()
"""
STEPS = """
    for _ in range(5):
        dog.step_ended()
    with dog.paused():
        time.sleep(1.0)
        dog.goes_on()
        {inside}
        time.sleep(1.0)
    dog.step_ended()
"""


@pytest.mark.parametrize(
    ("before", "allowed"),
    [("", 2), (STEPS.format(inside=""), 0), (STEPS.format(inside="stuck()"), 2)],
    ids=["first step", "later step", "pause"],
)
def test_what_hangs_leaves_its_stacks_and_ends_the_process(before: str, allowed: int, tmp_path: Path) -> None:
    report = tmp_path / "logs" / "hang-0.txt"
    command = [sys.executable, "-c", HANG.format(report=str(report), before=before)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == 8, ended.stderr
    assert f"and {allowed} s are allowed" in ended.stderr
    text = report.read_text()
    assert "in stuck" in text
    assert "Thread" in text


@pytest.mark.parametrize(
    ("where", "rank", "meanwhile"),
    [("first step", 1, "in forward_backward"), ("log", 0, "in _agree")],
)
def test_when_one_process_hangs_all_leave_their_stacks(
    where: str, rank: int, meanwhile: str, recipe: Recipe
) -> None:
    """A process that sleeps in its first step, and one in a step that the other has already ended."""
    recipe.pretrain.parallel = ParallelConfig(data_parallel_size=2)
    recipe.pretrain.fault.hang_factor, recipe.pretrain.fault.hang_min_seconds = 3.0, 5.0
    path = Path(recipe.work_dir) / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    processes = start_together(2, "tests.pretrain.hanging", [str(path), where, str(rank)])
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [8, 8], outputs
    logs = Path(str(recipe.pretrain.run_dir)) / "logs"
    stacks = [(logs / f"hang-{number}.txt").read_text() for number in range(2)]
    assert "in sleep_for_good" in stacks[rank]
    assert meanwhile in stacks[1 - rank]
    assert where == "first step" or stacks[1].startswith("another process hangs")


def test_a_loss_that_is_infinite_is_logged_as_valid_json(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward_backward, eval_step = MegatronEngine.forward_backward, MegatronEngine.eval_step
    calls = [0]

    def infinite(self: MegatronEngine, *tensors: torch.Tensor) -> float:
        calls[0] += 1
        return math.inf if calls[0] == 18 else forward_backward(self, *tensors)

    def not_a_number(self: MegatronEngine, *tensors: torch.Tensor) -> tuple[float, int]:
        return math.nan, eval_step(self, *tensors)[1]

    monkeypatch.setattr(MegatronEngine, "forward_backward", infinite)
    monkeypatch.setattr(MegatronEngine, "eval_step", not_a_number)
    assert main(recipe) == 0
    text = RunFolder(str(recipe.pretrain.run_dir)).log_path.read_text()
    assert not re.search(r"Infinity|NaN", text)
    (leapt,) = [r for r in steps(recipe) if "loss_spike" in r]
    assert (leapt["step"], leapt["loss"], leapt["loss_spike"], leapt["skipped"]) == (18, "inf", "inf", True)
    assert {r["perplexity"] for r in events(recipe, "validation")} == {"nan"}


def test_the_slowest_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(into: list[torch.Tensor], mine: torch.Tensor) -> None:
        for rank, place in enumerate(into):
            place.copy_(mine * (3 if rank == 2 else 1))

    monkeypatch.setattr(torch.distributed, "all_gather", gather)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    watch = Stragglers(torch.device("cpu"))
    watch.add({"data": 1.0})
    watch.add({"data": 2.0})
    report = watch.report()
    assert report["data"] == {"rank": 2, "seconds": 9.0, "median": 3.0}
    assert report["probe"]["rank"] == 2
    assert set(watch.report()) == {"probe"}


def test_saving_in_the_background_changes_nothing(recipe: Recipe, tmp_path: Path) -> None:
    recipe.pretrain.train_steps = 8
    recipe.pretrain.checkpoint = CheckpointConfig(interval=2, keep=0)
    assert main(recipe) == 0
    hashes = {step: file_hashes(recipe, step) for step in (2, 4, 6, 8)}
    curve = losses(recipe)
    recipe.pretrain.run_dir = str(tmp_path / "background")
    recipe.pretrain.checkpoint.async_save = True
    recipe.pretrain.deterministic = True
    try:
        assert main(recipe) == 0
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert losses(recipe) == curve
    assert {step: file_hashes(recipe, step) for step in (2, 4, 6, 8)} == hashes
    assert [r["path"][-1] for r in events(recipe, "checkpoint")] == ["2", "4", "6", "8"]


def test_what_is_written_in_the_background_shares_no_memory_with_training(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    live: set[int] = set()
    written: set[int] = set()
    save, write = MegatronEngine.save, MegatronWriting._write

    def watched_save(self: MegatronEngine, folder: Path, *, background: bool) -> Any:
        for part in self._optimizer.chained_optimizers:
            states = [state.values() for state in part.optimizer.state.values()]
            live.update(address(tensor) for tensor in chain(*states, part.get_parameters()))
        live.update(address(tensor) for chunk in self._chunks for tensor in chunk.parameters())
        return save(self, folder, background=background)

    def watched_write(self: MegatronWriting, transforms: Any, buckets: Any, results: Any) -> None:
        written.update(address(tensor) for _, _, (_, tensors) in buckets for _, tensor in tensors)
        write(self, transforms, buckets, results)

    monkeypatch.setattr(MegatronEngine, "save", watched_save)
    monkeypatch.setattr(MegatronWriting, "_write", watched_write)
    recipe.pretrain.train_steps = 1
    recipe.pretrain.checkpoint.async_save = True
    assert main(recipe) == 0
    assert len(written) > 10
    assert not written & live


def address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def test_some_checkpoints_stay_for_good_and_half_written_ones_go(recipe: Recipe) -> None:
    recipe.pretrain.train_steps = 8
    recipe.pretrain.checkpoint = CheckpointConfig(interval=1, keep=2, keep_every=3)
    folder = RunFolder(str(recipe.pretrain.run_dir)).checkpoints
    (folder / ".step_00000001.abc.part").mkdir(parents=True)
    for step in (90, 91):  # damaged ones of later steps count for nothing
        (folder / f"step_000000{step}").mkdir()
    assert main(recipe) == 0
    assert sorted(p.name[-2:] for p in folder.iterdir()) == ["03", "06", "07", "08", "90", "91"]


def test_a_retention_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"keep_every: 7 must be a multiple of .*interval \(2\)"):
        CheckpointConfig(interval=2, keep_every=7)
