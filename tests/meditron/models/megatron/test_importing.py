"""What importing megatron-core brings along, and when its fused functions are compiled."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from meditron.models.architecture import find_architecture
from meditron.models.megatron.cpu import quiet_import
from meditron.models.megatron.llama import build_model
from meditron.models.megatron.parallel import alone


def test_no_compiler_is_loaded_with_megatron() -> None:
    """It is most of the time of the import, in each process of a run."""
    code = (
        "import sys, pretrain.trainer, pretrain.engines.megatron;"
        "heavy = {'torch._dynamo', 'torch._inductor', 'transformers', 'datasets'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True)


def test_functions_are_compiled_at_their_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def compile_now(function, **settings):
        made.append((function.__name__, settings))
        return lambda number: function(number) + 100

    monkeypatch.setattr(torch, "compile", compile_now)
    with quiet_import():

        @torch.compile
        def double(number: int) -> int:
            return 2 * number

        @torch.compile(dynamic=True)
        def triple(number: int) -> int:
            return 3 * number

    assert torch.compile is compile_now
    assert made == []
    assert [double(1), double(2), triple(1)] == [102, 104, 103]
    assert made == [("double", {}), ("triple", {"dynamic": True})]
    assert double.__name__ == "double"


@pytest.mark.parametrize("theta", [10_000.0, 500_000.0, 12_345.678])
def test_plain_rotary_frequencies_are_those_of_transformers(theta: float) -> None:
    architecture = replace(find_architecture("tiny"), rope_theta=theta)
    with alone():
        model = build_model(architecture)
    expected = LlamaRotaryEmbedding(LlamaConfig(**architecture.to_hf())).inv_freq
    assert torch.equal(model.rotary_pos_emb.inv_freq, expected)
