"""Pretraining on two processes: the loss curve of one process, and checkpoints that fit any layout."""

import copy
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from meditron.config import Recipe
from meditron.config.loading import dump_recipe
from meditron.config.pretrain import ParallelConfig
from meditron.runs import RunFolder
from pretrain.main import main
from tests.pretrain.conftest import (  # noqa: F401
    LAYOUTS,
    base,
    make_recipe,
    no_group_is_left,
    recipe,
    run_together,
    shards,
)
from tests.pretrain.several import ask_to_stop
from tests.pretrain.test_trainer import losses, read_state, steps, validations


@pytest.fixture(scope="module")
def one_process(
    tmp_path_factory: pytest.TempPathFactory,
    base: Path,  # noqa: F811
    shards: Path,  # noqa: F811
) -> Recipe:
    """A finished run of twenty steps on one process."""
    alone = make_recipe(tmp_path_factory.mktemp("alone"), base, shards)
    assert main(alone) == 0
    return alone


@pytest.fixture(scope="module")
def one_process_bf16(
    tmp_path_factory: pytest.TempPathFactory,
    base: Path,  # noqa: F811
    shards: Path,  # noqa: F811
) -> Recipe:
    """The same run in bf16."""
    alone = make_recipe(tmp_path_factory.mktemp("alone"), base, shards)
    alone.pretrain.precision = "bf16"
    assert main(alone) == 0
    return alone


@pytest.fixture(scope="module")
def one_process_apart(
    tmp_path_factory: pytest.TempPathFactory,
    base: Path,  # noqa: F811
    shards: Path,  # noqa: F811
) -> Recipe:
    """The same run with the documents of a sample kept apart."""
    alone = make_recipe(tmp_path_factory.mktemp("alone"), base, shards)
    alone.pretrain.reset_attention_mask = True
    assert main(alone) == 0
    return alone


SETTINGS: dict[str, dict[str, Any]] = {
    "bf16": {"precision": "bf16"},
    "selective": {"recompute": "selective"},
    "full": {"recompute": "full"},
    "documents apart": {"reset_attention_mask": True},
}
"""What a name adds to a layout, after a semicolon."""
EQUAL = ("TP2+SP; selective", "PP2; full")
EQUAL_APART = ("TP2; documents apart", "PP2; documents apart", "CP2; documents apart")
EQUAL_BF16 = (
    "TP2; bf16",
    "TP2+SP; bf16",
    "TP2+SP; selective; bf16",
    "PP2; bf16",
    "CP2; bf16",
    "DP2 overlapping; bf16",
)


def at(recipe: Recipe, name: str, layouts: Mapping[str, Mapping[str, Any]]) -> Recipe:  # noqa: F811
    """The recipe at a layout and with the settings of SETTINGS, as its name says; saved at the end only."""
    layout, *rest = name.split("; ")
    recipe.pretrain.parallel = ParallelConfig(**layouts[layout])
    for setting in rest:
        for field, value in SETTINGS[setting].items():
            setattr(recipe.pretrain, field, value)
    recipe.pretrain.checkpoint.interval = 20
    return recipe


@pytest.fixture(scope="module")
def two_processes(
    tmp_path_factory: pytest.TempPathFactory,
    base: Path,  # noqa: F811
    shards: Path,  # noqa: F811
) -> dict[str, Recipe]:
    """The same run on two processes at every layout, which all share one pair of processes."""
    folder = tmp_path_factory.mktemp("two")
    names = [*LAYOUTS, *EQUAL, *EQUAL_APART, *EQUAL_BF16]
    recipes = {
        name: at(make_recipe(folder / str(number), base, shards), name, LAYOUTS)
        for number, name in enumerate(names)
    }
    recipes["DP2"].pretrain.fault.straggler_interval = 10
    run_together(2, list(recipes.values()))
    return recipes


def check_curve(found: Recipe, expected: Recipe) -> None:
    """Losses, gradient norms and held-out losses are the same."""
    assert losses(found) == pytest.approx(losses(expected), abs=1e-4)
    norms, reference = ([r["grad_norm"] for r in steps(each)] for each in (found, expected))
    assert norms == pytest.approx(reference, abs=1e-3)
    assert set(validations(found)) == set(validations(expected))
    for key, loss in validations(expected).items():
        assert validations(found)[key] == pytest.approx(loss, abs=1e-4), key


@pytest.mark.parametrize("layout", [*LAYOUTS, *EQUAL])
def test_two_processes_have_the_curve_of_one(
    layout: str, two_processes: dict[str, Recipe], one_process: Recipe
) -> None:
    check_curve(two_processes[layout], one_process)


@pytest.mark.parametrize("layout", EQUAL_APART)
def test_so_they_do_with_documents_kept_apart(
    layout: str, two_processes: dict[str, Recipe], one_process_apart: Recipe, one_process: Recipe
) -> None:
    check_curve(two_processes[layout], one_process_apart)
    assert losses(one_process_apart) != pytest.approx(losses(one_process), abs=1e-3)


def test_the_slowest_process_of_each_phase_is_logged(two_processes: dict[str, Recipe]) -> None:
    records = RunFolder(str(two_processes["DP2"].pretrain.run_dir)).read_log()
    found = {r["step"]: r["phases"] for r in records if r["event"] == "stragglers"}
    assert list(found) == [10, 20]
    for phases in found.values():
        assert set(phases) == {"data", "forward_backward", "optimizer", "checkpoint", "probe"}
        for phase in phases.values():
            assert phase["rank"] in (0, 1)
            assert phase["seconds"] >= phase["median"] >= 0


def check_curve_bf16(found: Recipe, expected: Recipe) -> None:
    """As `check_curve`, within the rounding of bf16, which errs by up to 2^-9 of a number.

    Logits, from which a loss is reckoned, are rounded so, and another layout adds up in another order. A
    gradient is rounded at every layer there and back, so its norm is given four times that.
    """
    assert losses(found) == pytest.approx(losses(expected), rel=2**-9)
    norms, reference = ([r["grad_norm"] for r in steps(each)] for each in (found, expected))
    assert norms == pytest.approx(reference, rel=2**-7)


@pytest.mark.parametrize("layout", EQUAL_BF16)
def test_so_they_do_in_bf16(
    layout: str, two_processes: dict[str, Recipe], one_process_bf16: Recipe, one_process: Recipe
) -> None:
    check_curve_bf16(two_processes[layout], one_process_bf16)
    assert losses(two_processes[layout]) != losses(one_process)


def test_a_checkpoint_holds_weights_that_were_still_to_be_gathered(two_processes: dict[str, Recipe]) -> None:
    """Saved right after an update whose all-gather is left to the next forward pass; a step moves weights by
    about the learning rate, 3e-4."""
    found, expected = (read_state(two_processes[name], 20) for name in ("DP2 overlapping", "DP2"))
    for name in expected.names():
        torch.testing.assert_close(
            found.read("param", name), expected.read("param", name), atol=1e-5, rtol=0, msg=name
        )


OVERLAP = {"overlap_grad_reduce": True, "overlap_param_gather": True}
FOUR: dict[str, dict[str, Any]] = {
    "TP2 x PP2": {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2},
    "CP2 x DP2": {"context_parallel_size": 2, "data_parallel_size": 2, **OVERLAP},
    "CP2 x PP2": {"context_parallel_size": 2, "pipeline_model_parallel_size": 2},
    "TP2 x DP2": {"tensor_model_parallel_size": 2, "data_parallel_size": 2},
    "TP2+SP x PP2, overlapping": {**LAYOUTS["TP2+SP"], "pipeline_model_parallel_size": 2, **OVERLAP},
    "TP2+SP x DP2, overlapping": {**LAYOUTS["TP2+SP"], "data_parallel_size": 2, **OVERLAP},
    "PP2 x DP2, overlapping": {
        "pipeline_model_parallel_size": 2,
        "virtual_pipeline_model_parallel_size": 2,
        "data_parallel_size": 2,
        **OVERLAP,
    },
}


EQUAL_ON_FOUR = (
    "TP2 x DP2",
    "CP2 x DP2",
    "CP2 x PP2",
    "PP2 x DP2, overlapping",
    "TP2+SP x PP2, overlapping; selective",
    "TP2+SP x DP2, overlapping; selective",
)


def test_four_processes_have_the_curve_of_one(
    one_process: Recipe,
    base: Path,  # noqa: F811
    shards: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """From the beginning, and after a first step that one process did."""
    whole, moving = (make_recipe(tmp_path / name, base, shards) for name in ("whole", "moving"))
    go_a_step(moving)
    run_together(4, [at(each, "TP2 x PP2", FOUR) for each in (whole, moving)])
    assert resumed(moving) == ["step_00000001"]
    check_curve(whole, one_process)
    check_curve(moving, one_process)


@pytest.mark.slow
def test_so_they_do_at_other_layouts_and_in_bf16(
    one_process: Recipe,
    one_process_bf16: Recipe,
    base: Path,  # noqa: F811
    shards: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    recipes = [
        at(make_recipe(tmp_path / str(number), base, shards), name, FOUR)
        for number, name in enumerate([*EQUAL_ON_FOUR, "TP2 x PP2; bf16"])
    ]
    run_together(4, recipes)
    for each in recipes[:-1]:
        check_curve(each, one_process)
    check_curve_bf16(recipes[-1], one_process_bf16)


def go_a_step(recipe: Recipe) -> None:  # noqa: F811
    ask_to_stop(recipe)
    assert main(recipe) == 75


def resumed(recipe: Recipe) -> list[str]:  # noqa: F811
    """Checkpoints that the run went on from."""
    return [r["path"] for r in RunFolder(str(recipe.pretrain.run_dir)).read_log() if r["event"] == "resume"]


def test_a_checkpoint_fits_other_layouts(
    one_process: Recipe,
    one_process_bf16: Recipe,
    base: Path,  # noqa: F811
    shards: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """A step on one process, a step at each of four layouts of two, the rest on one: one curve."""
    runs = {}
    for precision in ("fp32", "bf16"):
        runs[precision] = make_recipe(tmp_path / precision, base, shards)
        runs[precision].pretrain.precision = precision
        go_a_step(runs[precision])
    way = [
        at(copy.deepcopy(run), layout, LAYOUTS)
        for run in runs.values()
        for layout in ("DP2", "TP2+SP", "CP2", "PP2")
    ]
    run_together(2, way, stopped=range(len(way)))
    for run in runs.values():
        assert main(run) == 0
        assert resumed(run) == [f"step_0000000{step}" for step in range(1, 6)]
    assert losses(runs["fp32"])[:5] == pytest.approx(losses(one_process)[:5], abs=1e-5)
    check_curve(runs["fp32"], one_process)
    check_curve_bf16(runs["bf16"], one_process_bf16)


def test_a_process_that_is_killed_loses_nothing_finished(recipe: Recipe, one_process: Recipe) -> None:  # noqa: F811
    """SIGKILL of one of two processes; the other ends too, and a new start has the curve."""
    recipe.pretrain.parallel = ParallelConfig(pipeline_model_parallel_size=2)
    path = Path(recipe.work_dir) / "recipe.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_recipe(recipe))
    command = [sys.executable, "-m", "meditron", "pretrain", "--config", str(path)]
    parent = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    run = RunFolder(str(recipe.pretrain.run_dir))
    deadline = time.monotonic() + 120
    while not any(record["event"] == "checkpoint" for record in run.read_log()):
        assert time.monotonic() < deadline
        assert parent.poll() is None
        time.sleep(0.02)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    error = parent.communicate(timeout=100)[1]
    assert parent.returncode == 8, error
    assert "process 1 ended with code -9" in error
    assert main(recipe) == 0
    assert losses(recipe) == pytest.approx(losses(one_process), abs=1e-4)
