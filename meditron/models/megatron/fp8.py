"""Matrix products of the layers in fp8, by TransformerEngine: what they need, the modules that do them."""

from importlib.util import find_spec
from typing import Any

import torch

from meditron.errors import EnvironmentMissingError

LEAST_CAPABILITY = (8, 9)
"""Compute capability of the first GPUs with fp8 (Ada; Hopper is 9.0)."""
SETTINGS: dict[str, Any] = {"fp8": "hybrid", "fp8_recipe": "tensorwise"}
"""Fields of Megatron's `TransformerConfig`: E4M3 forward, E5M2 for gradients (arXiv 2209.05433), each tensor
scaled by its own largest value, so that no history of scales has to be kept in checkpoints."""


def require_fp8() -> None:
    """Refuse fp8 where it cannot work.

    Raises:
        EnvironmentMissingError: TransformerEngine or a fitting GPU is missing.
    """
    missing = ""
    if find_spec("transformer_engine") is None:
        missing = "TransformerEngine is not installed; run: pip install 'transformer-engine[pytorch]>=2.2'"
    elif not torch.cuda.is_available() or torch.cuda.get_device_capability() < LEAST_CAPABILITY:
        missing = "there is no GPU of compute capability 8.9 or more (Ada, Hopper, Blackwell); use another"
    if missing:
        raise EnvironmentMissingError(f"pretrain.fp8: {missing}, or set it to false")


def fp8_linears() -> tuple[type[torch.nn.Module], type[torch.nn.Module]]:
    """TransformerEngine's column- and row-parallel products, as Megatron wraps them."""
    from megatron.core.extensions import transformer_engine as te

    return _stateless(te.TEColumnParallelLinear), _stateless(te.TERowParallelLinear)


def _stateless(kind: type[torch.nn.Module]) -> type[torch.nn.Module]:
    """The module without its extra state, an empty pickle when tensors are scaled by themselves."""
    plain = {name: getattr(torch.nn.Module, name) for name in ("get_extra_state", "set_extra_state")}
    return type(kind.__name__, (kind,), plain)
