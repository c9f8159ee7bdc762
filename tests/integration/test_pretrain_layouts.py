"""Pretraining on two processes: the loss curve of one process, and checkpoints that fit any layout."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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


BF16 = ("TP2", "PP2", "DP2 overlapping")


@pytest.fixture(scope="module")
def two_processes(
    tmp_path_factory: pytest.TempPathFactory,
    base: Path,  # noqa: F811
    shards: Path,  # noqa: F811
) -> dict[str, Recipe]:
    """The same run on two processes at every layout, which all share one pair of processes."""
    folder = tmp_path_factory.mktemp("two")
    names = [*LAYOUTS, *(f"{name}, bf16" for name in BF16)]
    recipes = {name: make_recipe(folder / name.replace(" ", "_"), base, shards) for name in names}
    for name, made in recipes.items():
        made.pretrain.parallel = ParallelConfig(**LAYOUTS[name.removesuffix(", bf16")])
        made.pretrain.precision = "bf16" if name.endswith("bf16") else "fp32"
        made.pretrain.checkpoint.interval = 20
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


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_processes_have_the_curve_of_one(
    layout: str, two_processes: dict[str, Recipe], one_process: Recipe
) -> None:
    check_curve(two_processes[layout], one_process)


def check_curve_bf16(found: Recipe, expected: Recipe) -> None:
    """As `check_curve`, within the rounding of bf16, which errs by up to 2^-9 of a number.

    Logits, from which a loss is reckoned, are rounded so, and another layout adds up in another order. A
    gradient is rounded at every layer there and back, so its norm is given four times that.
    """
    assert losses(found) == pytest.approx(losses(expected), rel=2**-9)
    norms, reference = ([r["grad_norm"] for r in steps(each)] for each in (found, expected))
    assert norms == pytest.approx(reference, rel=2**-7)


@pytest.mark.parametrize("layout", BF16)
def test_so_they_do_in_bf16(
    layout: str, two_processes: dict[str, Recipe], one_process_bf16: Recipe, one_process: Recipe
) -> None:
    check_curve_bf16(two_processes[f"{layout}, bf16"], one_process_bf16)
    assert losses(two_processes[f"{layout}, bf16"]) != losses(one_process)


def test_a_checkpoint_holds_weights_that_were_still_to_be_gathered(two_processes: dict[str, Recipe]) -> None:
    """Saved right after an update whose all-gather is left to the next forward pass; a step moves weights by
    about the learning rate, 3e-4."""
    found, expected = (read_state(two_processes[name], 20) for name in ("DP2 overlapping", "DP2"))
    for name in expected.names():
        torch.testing.assert_close(
            found.read("param", name), expected.read("param", name), atol=1e-5, rtol=0, msg=name
        )


FOUR = {
    "TP2 x PP2": {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2},
    "TP2 x DP2": {"tensor_model_parallel_size": 2, "data_parallel_size": 2},
    "PP2 x DP2, overlapping": {
        "pipeline_model_parallel_size": 2,
        "virtual_pipeline_model_parallel_size": 2,
        **{name: value for name, value in LAYOUTS["DP2 overlapping"].items() if name != "ddp_bucket_size"},
    },
}


@pytest.mark.slow
def test_four_processes_have_the_curve_of_one(
    one_process: Recipe,
    base: Path,  # noqa: F811
    shards: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    recipes = [make_recipe(tmp_path / str(number), base, shards) for number in range(len(FOUR))]
    for each, layout in zip(recipes, FOUR.values(), strict=True):
        each.pretrain.parallel = ParallelConfig(**layout)
        each.pretrain.checkpoint.interval = 20
    run_together(4, recipes)
    for each in recipes:
        check_curve(each, one_process)


def test_a_checkpoint_fits_other_layouts(recipe: Recipe, one_process: Recipe, tmp_path: Path) -> None:  # noqa: F811
    """Saved by DP2, gone on with as TP2, then as PP2: one curve, optimizer included."""
    recipe.pretrain.parallel = ParallelConfig(data_parallel_size=2)
    triggers = Path(str(recipe.pretrain.run_dir)) / "triggers"
    for number, layout in enumerate(("DP2", "TP2", "PP2")):
        if number < 2:
            triggers.mkdir(parents=True, exist_ok=True)
            (triggers / "exit").touch()
        recipe.pretrain.parallel = ParallelConfig(**LAYOUTS[layout])
        assert main(recipe) == (75 if number < 2 else 0)
    assert losses(recipe) == pytest.approx(losses(one_process), abs=1e-4)


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
