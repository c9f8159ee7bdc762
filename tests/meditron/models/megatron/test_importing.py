"""What importing megatron-core brings along, and when its fused functions are compiled."""

import subprocess
import sys

import pytest
import torch

from meditron.models.megatron.cpu import quiet_import


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
