"""Every shipped recipe parses, resolves and survives being written out; the paper's are the paper's."""

from pathlib import Path

import pytest
import yaml

from meditron.config.loading import dump_recipe, load_recipe
from meditron.models.architecture import PRESETS, RELEASES

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
CLUSTERS = sorted(CONFIGS.glob("clusters/*.yaml"))
RECIPES = sorted(set(CONFIGS.glob("**/*.yaml")) - set(CLUSTERS))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_it_parses_and_is_the_same_when_read_again(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    again = tmp_path / "again.yaml"
    again.write_text(dump_recipe(recipe))
    assert load_recipe(again) == recipe


@pytest.mark.parametrize(
    ("name", "preset", "gpus", "tokens_of_a_step", "tokens", "lr"),
    [
        ("meditron-7b", "llama2-7b", 64, 3_276_800, 46.7e9, 3e-4),
        ("meditron-70b", "llama2-70b", 128, 2_097_152, 48.2e9, 1.5e-4),
        ("meditron-llama3-8b", "llama3-8b", 64, 3_276_800, 37.5e9, 1e-4),
    ],
)
def test_the_recipes_of_the_paper_and_after_it(
    name: str, preset: str, gpus: int, tokens_of_a_step: int, tokens: float, lr: float
) -> None:
    recipe = load_recipe(CONFIGS / f"{name}.yaml")
    assert RELEASES[str(recipe.model.import_from)] == preset
    config = recipe.pretrain
    assert config.parallel.world_size == gpus
    assert config.global_batch_size * config.sequence_length == tokens_of_a_step
    assert config.train_steps * tokens_of_a_step == pytest.approx(tokens, rel=0.005)
    assert (config.optimizer.lr, config.optimizer.min_lr) == pytest.approx((lr, lr / 10))
    architecture, layout = PRESETS[preset], config.parallel
    assert architecture.num_key_value_heads % layout.tensor_model_parallel_size == 0
    assert architecture.num_hidden_layers % layout.pipeline_model_parallel_size == 0
    assert config.sequence_length <= architecture.max_position_embeddings


def test_every_setting_of_the_paper_names_its_source() -> None:
    for name in ("meditron-7b", "meditron-70b", "meditron-llama3-8b"):
        lines = (CONFIGS / f"{name}.yaml").read_text().splitlines()
        start = lines.index("pretrain:")
        settings = [line for line in lines[start + 1 : lines.index("launch:")] if yaml.safe_load(line)]
        sourced = ("pipeline_model_parallel_size", "data_parallel_size")  # by the line above them
        bare = [line for line in settings if "#" not in line and not line.rstrip().endswith(":")]
        assert not [line for line in bare if not line.strip().startswith(sourced)]
