"""A run that goes from engine to engine and layout to layout, and rows for added tokens at each of them."""

import copy
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data_curation import tokenize
from meditron.config import Recipe, TokenizeConfig, resolve
from meditron.config.pretrain import DeepSpeedConfig, ParallelConfig
from pretrain.main import main
from tests.integration.test_pretrain_layouts import check_curve, one_process  # noqa: F401
from tests.pretrain.conftest import (  # noqa: F401
    LAYOUTS,
    TEXTS,
    base,
    make_recipe,
    no_group_is_left,
    run_together,
    shards,
    write_corpus,
)
from tests.pretrain.test_trainer import losses, read_state

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="the extra `deepspeed` is not installed"
)
WAY = ("TP2+SP", 3, "DP2 plain", 0, "PP2 interleaved", 1, "DP2", "DP2 plain", 2, "TP2")
"""Layouts of Megatron and stages of ZeRO, by each of which the run goes a step, by the last to its end."""
GROWN = ("TP2", "PP2", 3)
ADDED = ["[bib_ref]", "[/bib_ref]"]


def at(recipe: Recipe, layout: str | int) -> Recipe:
    """The recipe at a layout of Megatron, or at a stage of ZeRO."""
    made = copy.deepcopy(recipe)
    if isinstance(layout, int):
        made.pretrain.engine = "deepspeed"
        made.pretrain.deepspeed = DeepSpeedConfig(zero_stage=layout)  # type: ignore[arg-type]
        made.pretrain.parallel = ParallelConfig(data_parallel_size=2)
    else:
        made.pretrain.parallel = ParallelConfig(**LAYOUTS[layout])  # type: ignore[arg-type]
    return made


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Recipe:  # noqa: F811
    """Five steps on shards whose tokenizer got two tokens, and every document begins with both."""
    folder = tmp_path_factory.mktemp("grown")
    texts = {name: [f"{''.join(ADDED)} {text}" for text in some] for name, some in TEXTS.items()}
    config = TokenizeConfig(
        corpus=str(write_corpus(folder / "corpus", texts)), tokenizer=str(base), added_tokens=ADDED
    )
    tokenize.main(resolve(Recipe(work_dir=str(folder), tokenize=config)))
    made = make_recipe(folder / "one", base, folder / "shards")
    made.pretrain.train_steps = 5
    return made


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory,
    base: Path,  # noqa: F811
    shards: Path,  # noqa: F811
    grown: Recipe,
) -> dict[str | int, Recipe]:
    """The run along WAY, and the grown model at each layout, in one pair of processes."""
    folder = tmp_path_factory.mktemp("two")
    moving = make_recipe(folder / "moving", base, shards)
    recipes = [at(moving, layout) for layout in WAY]
    found: dict[str | int, Recipe] = {"moving": moving}
    for layout in GROWN:
        made = at(grown, layout)
        made.pretrain.run_dir = str(folder / f"grown-{layout}" / "pretrain")
        found[layout] = made
        recipes.append(made)
    run_together(2, recipes, stopped=range(len(WAY) - 1))
    return found


def test_it_goes_from_engine_to_engine_as_if_it_had_stayed(
    runs: dict[str | int, Recipe],
    one_process: Recipe,  # noqa: F811
) -> None:
    assert losses(runs["moving"])[: len(WAY) + 1] == pytest.approx(
        losses(one_process)[: len(WAY) + 1], abs=1e-5
    )
    check_curve(runs["moving"], one_process)


def test_added_tokens_have_one_curve_at_every_layout(runs: dict[str | int, Recipe], grown: Recipe) -> None:
    assert main(grown) == 0
    for layout in GROWN:
        assert losses(runs[layout]) == pytest.approx(losses(grown), abs=1e-5), layout


def test_rows_of_added_tokens_begin_as_the_mean(grown: Recipe, tmp_path: Path) -> None:
    made: Any = copy.deepcopy(grown)
    made.pretrain.run_dir = str(tmp_path / "pretrain")
    made.pretrain.train_steps = 1
    made.pretrain.optimizer.warmup_steps = 0
    made.pretrain.optimizer.lr = made.pretrain.optimizer.min_lr = 1e-12
    assert main(made) == 0
    known = load_file(Path(made.model.base) / "model.safetensors")["model.embed_tokens.weight"]
    rows = read_state(made, 1).read("param", "model.embed_tokens.weight")
    assert len(rows) == len(known) + len(ADDED)
    torch.testing.assert_close(rows[: len(known)], known)
    torch.testing.assert_close(rows[len(known) :], known.mean(0).expand(len(ADDED), -1))
    table = json.loads((Path(made.pretrain.shards) / "tokens.json").read_text())
    assert table["added_tokens"] == {token: len(known) + n for n, token in enumerate(ADDED)}
