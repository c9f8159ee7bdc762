"""SIGKILL at the instants at which a run writes: checkpoints are whole or absent, and it goes on bitwise."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from meditron.config import Recipe
from meditron.config.loading import dump_recipe
from meditron.config.pretrain import CheckpointConfig, DeepSpeedConfig, ParallelConfig

NEEDS_DEEPSPEED = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="the extra `deepspeed` is not installed"
)
KINDS = {
    "at once": {},
    "background": {"async_save": True},
    "two processes": {"parallel": ParallelConfig(data_parallel_size=2)},
    "deepspeed": {"engine": "deepspeed", "deepspeed": DeepSpeedConfig(zero_stage=1)},
}
STRIDES = {"two processes": 23}
"""How many instants a short test goes on each time; 29 where none is named."""
CASES = [pytest.param(name, marks=[NEEDS_DEEPSPEED] if name == "deepspeed" else []) for name in KINDS]


def kills(recipe: Recipe, stride: int, kind: str) -> list[int]:
    """Number of instants that each process of a run was killed at, with every outcome the same."""
    settings = dict(KINDS[kind])
    async_save = bool(settings.pop("async_save", False))
    for name, value in settings.items():
        setattr(recipe.pretrain, name, value)
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
    return [int(word) for word in done.stdout.splitlines()[-1].split()]


@pytest.mark.parametrize("kind", CASES)
def test_some_instants(recipe: Recipe, kind: str) -> None:
    assert min(kills(recipe, STRIDES.get(kind, 29), kind)) >= 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", CASES)
def test_every_instant(recipe: Recipe, kind: str) -> None:
    assert kills(recipe, 1, kind)[0] >= 52
