"""An option that changes how layers are put together: made outside the package, the same in both forms."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from meditron.errors import ParityError
from meditron.models.architecture import read_architecture
from meditron.models.options import ModelOption, base, register_option
from meditron.models.parity import check_parity, huggingface_logits, probe_tokens
from tests.finetune.conftest import make_model


def repeat_layers(stack: Any, times: int) -> None:
    stack.layers = nn.ModuleList([layer for _ in range(times) for layer in stack.layers])


@pytest.fixture
def option() -> Iterator[type[ModelOption]]:
    """All layers once more, with the same weights."""

    @register_option("again")
    @dataclass(frozen=True, kw_only=True)
    class AgainConfig(ModelOption):
        layerwise: ClassVar[bool] = False
        in_megatron: ClassVar[int] = 2

        def hf_config(self) -> dict[str, Any]:
            return {"model_type": "again"}

        @classmethod
        def from_hf_config(cls, config: Mapping[str, Any]) -> "AgainConfig | None":
            return cls() if config.get("model_type") == "again" else None

        def adapt_hf_model(self, model: Any) -> None:
            repeat_layers(model.model, 2)
            model.config.num_hidden_layers *= 2

        def adapt_megatron_model(self, model: Any) -> None:
            repeat_layers(model.decoder, self.in_megatron)

    yield AgainConfig
    del base._REGISTRY["again"]


def test_both_forms_compute_it(tmp_path: Path, option: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_model(tmp_path / "model", initializer_range=0.3)
    plain = LlamaForCausalLM.from_pretrained(folder).eval()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "again"}))
    architecture = read_architecture(folder)
    assert architecture.options == (option(),)
    tokens = probe_tokens(architecture)
    with torch.no_grad():
        once = plain(tokens).logits
    assert (huggingface_logits(folder, tokens) - once).abs().max() > 0.1
    assert check_parity(folder) <= 1e-4
    monkeypatch.setattr(option, "in_megatron", 1)
    with pytest.raises(ParityError):
        check_parity(folder)
