"""Options in a recipe: found by their folder, checked when it is read, refused when they do not fit."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from meditron.config.loading import build_parser, parse_recipe
from meditron.config.recipe import Recipe
from meditron.errors import ConfigError
from meditron.models.architecture import PRESETS, from_hf, with_options
from meditron.models.options import ModelOption, base, parse_options, register_option
from meditron.models.options.landmark.config import LandmarkConfig

SMALL = {"block_size": 7, "window": 64}


def read(*arguments: str) -> Recipe:
    return parse_recipe(build_parser("meditron", "", ()), arguments)[0]


@pytest.fixture
def noise() -> Iterator[type[ModelOption]]:
    """An option that exists for one test, made outside this package."""

    @register_option("noise")
    @dataclass(frozen=True, kw_only=True)
    class NoiseConfig(ModelOption):
        share: float = 0.1

    yield NoiseConfig
    del base._REGISTRY["noise"]


def test_settings_come_from_file_text_or_single_keys() -> None:
    whole = read("--model.options", "{landmark: {block_size: 7, window: 64}}")
    single = read("--model.options.landmark", "{block_size: 7, window: 64}")
    assert whole.model.options == single.model.options
    assert whole.model.options["landmark"]["top_k"] == 4  # defaults are part of the resolved recipe
    assert read().model.options == {}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("{landmrk: {}}", "did you mean 'landmark'"),
        ("{landmark: {blok_size: 7}}", "landmark.blok_size: is unknown; did you mean 'block_size'"),
        ("{landmark: {block_size: many}}", "landmark.block_size: 'many' must be int"),
        ("{landmark: 3}", "must map settings to values"),
        ("{landmark: {window: 100}}", "window: 100 is no multiple of block_size"),
        ("{landmark: {block_size: 7, window: 48}}", "must hold top_k"),
        ("{landmark: {block_size: 0}}", "must be at least 1"),
        ("{landmark: {retrieval: heads}}", "did you mean 'head'"),
        ("{landmark: {block_size: 49, window: 500, kernel: true}}", "power of two"),
    ],
)
def test_a_wrong_setting_is_refused_when_the_recipe_is_read(settings: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read("--model.options", settings)


def test_other_stages_that_contradict_it_are_refused() -> None:
    option = "{landmark: {block_size: 7, window: 64}}"
    with pytest.raises(ConfigError, match="reset_attention_mask"):
        read("--model.options", option, "--pretrain.reset_attention_mask", "true")
    parallel = ["--pretrain.parallel", "{tensor_model_parallel_size: 2, sequence_parallel: true}"]
    with pytest.raises(ConfigError, match="takes 25 slots"):
        read("--model.options", option, "--pretrain.sequence_length", "22", *parallel)
    assert read("--model.options", option, "--pretrain.sequence_length", "21", *parallel).model.options


def test_options_are_not_combined_unless_one_says_so(noise: type[ModelOption]) -> None:
    settings = {"landmark": SMALL, "noise": {"share": 1}}
    with pytest.raises(ConfigError, match="landmark and noise cannot be combined"):
        parse_options(settings)
    noise.goes_with = frozenset({"landmark"})
    landmark, other = parse_options(settings)
    assert (landmark.name, other) == ("landmark", noise(share=1.0))


def test_the_model_has_one_more_token_and_says_so_in_its_config() -> None:
    (option,) = parse_options({"landmark": SMALL})
    extended = with_options(PRESETS["tiny"], (option,))
    assert extended.vocab_size == 513
    assert extended.options == (replace(LandmarkConfig(**SMALL), token_id=512),)
    assert from_hf(extended.to_hf(), "here") == extended
    with pytest.raises(ConfigError, match="has the options landmark already"):
        with_options(extended, (option,))
    assert PRESETS["tiny"].to_hf()["architectures"] == ["LlamaForCausalLM"]
