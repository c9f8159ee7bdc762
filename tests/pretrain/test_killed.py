"""SIGKILL at the instants at which a run writes: checkpoints are whole or absent, and it goes on bitwise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from meditron.config import Recipe
from meditron.config.loading import dump_recipe
from meditron.config.pretrain import CheckpointConfig


def kills(recipe: Recipe, stride: int, async_save: bool) -> int:
    """Number of instants that the run was killed at, with every outcome the same."""
    recipe.pretrain.train_steps = 3
    recipe.pretrain.optimizer.warmup_steps = 0
    recipe.pretrain.validation.interval = 100
    recipe.pretrain.checkpoint = CheckpointConfig(interval=1, keep=1, async_save=async_save)
    path = Path(recipe.work_dir) / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    command = [sys.executable, "-m", "tests.pretrain.killed", str(path), str(stride)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


@pytest.mark.parametrize("async_save", [False, True])
def test_some_instants(recipe: Recipe, async_save: bool) -> None:
    assert kills(recipe, 29, async_save) >= 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("async_save", [False, True])
def test_every_instant(recipe: Recipe, async_save: bool) -> None:
    assert kills(recipe, 1, async_save) >= 52
