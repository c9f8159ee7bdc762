import json
import sys
from pathlib import Path

import pytest

from meditron.config import CurateConfig, FinetuneConfig, Recipe, RunConfig, SourceConfig, resolve
from meditron.config.loading import load_recipe

RECIPE = Path(__file__).parent / "recipe.yaml"


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe(RECIPE)


@pytest.fixture
def command() -> list[str]:
    """What starts a stage that leaves what the real one would."""
    return [sys.executable, str(Path(__file__).parent / "verbs.py")]


def make_recipe(tmp_path: Path, *, seed: int = 1, epochs: int = 1, from_stage: str | None = None) -> Recipe:
    recipe = Recipe(
        work_dir=str(tmp_path / "work"),
        seed=seed,
        curate=CurateConfig(sources={"a": SourceConfig(path="a", reader="jsonl")}),
        finetune=FinetuneConfig(data=["x.jsonl"], epochs=epochs),
        run=RunConfig(from_stage=from_stage),
    )
    recipe.pretrain.train_steps = 7
    return resolve(recipe)


def calls(tmp_path: Path) -> list[str]:
    path = tmp_path / "work" / "calls.txt"
    found = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def records(tmp_path: Path) -> dict[str, dict]:
    return json.loads((tmp_path / "work" / "run.json").read_text())["stages"]
