"""Presets against what was published of them."""

import pytest
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from meditron.models.architecture import PRESETS, RELEASES, from_hf


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("llama2-7b", 6_738_415_616),
        ("llama2-70b", 68_976_648_192),
        ("llama3-8b", 8_030_261_248),
        ("llama3.1-70b", 70_553_706_496),
        ("smollm2-135m", 134_515_008),
    ],
)
def test_parameters_are_those_of_the_release(preset: str, parameters: int) -> None:
    assert PRESETS[preset].num_parameters == parameters


def test_releases_have_presets_which_survive_config_json() -> None:
    assert set(RELEASES.values()) == set(PRESETS) - {"tiny"}
    for name, architecture in PRESETS.items():
        assert from_hf(architecture.to_hf(), name) == architecture


def test_llama_3_1_stretches_long_waves_only() -> None:
    plain, scaled = (
        LlamaRotaryEmbedding(LlamaConfig(**PRESETS[name].to_hf())).inv_freq
        for name in ("llama3-8b", "llama3.1-8b")
    )
    assert plain[1] == pytest.approx(500_000 ** (-2 / 128))
    assert (plain / scaled)[[0, -1]].tolist() == pytest.approx([1, 8])
