"""fp8 is refused where it cannot work; elsewhere TransformerEngine's products stand in for Megatron's own."""

import re
from importlib.util import find_spec

import pytest
import torch
from megatron.core.extensions import transformer_engine
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear

from meditron.errors import EnvironmentMissingError
from meditron.models.architecture import PRESETS
from meditron.models.megatron import fp8
from meditron.models.megatron.llama import build_chunks
from meditron.models.megatron.parallel import alone


@pytest.mark.skipif(find_spec("transformer_engine") is not None, reason="TransformerEngine is installed here")
def test_it_is_refused_without_transformer_engine() -> None:
    with pytest.raises(
        EnvironmentMissingError, match=r"^pretrain\.fp8: TransformerEngine is not installed; run"
    ):
        fp8.require_fp8()


@pytest.mark.parametrize(("has_gpu", "capability"), [(False, (0, 0)), (True, (8, 0))])
def test_it_is_refused_on_other_devices(
    has_gpu: bool, capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fp8, "find_spec", lambda name: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    with pytest.raises(EnvironmentMissingError, match=re.escape("no GPU of compute capability 8.9 or more")):
        fp8.require_fp8()


def test_it_is_let_through_on_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fp8, "find_spec", lambda name: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    fp8.require_fp8()


class Stated(torch.nn.Module):
    """As TransformerEngine's modules, which carry a pickle in their state."""

    def get_extra_state(self) -> torch.Tensor:
        return torch.zeros(1)


class Column(Stated, ColumnParallelLinear):  # type: ignore[misc]
    pass


class Row(Stated, RowParallelLinear):  # type: ignore[misc]
    pass


def test_the_layers_products_are_transformer_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer_engine, "TEColumnParallelLinear", Column)
    monkeypatch.setattr(transformer_engine, "TERowParallelLinear", Row)
    with alone():
        (model,) = build_chunks(PRESETS["tiny"], dtype=torch.bfloat16, **fp8.SETTINGS)
    for layer in model.decoder.layers:
        kinds = (layer.self_attention.linear_qkv, layer.mlp.linear_fc1)
        assert all(isinstance(module, Column) for module in kinds)
        assert all(isinstance(m, Row) for m in (layer.self_attention.linear_proj, layer.mlp.linear_fc2))
    assert not [name for name in model.decoder.state_dict() if name.endswith("_extra_state")]
    assert model.config.fp8 == "hybrid"
