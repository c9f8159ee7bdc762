"""Landmark attention for megatron-core: another attention core in the layer's spec.

The core sees whole sequences, also under sequence parallelism, and whole heads under tensor parallelism;
where landmarks stand follows from the slot's number, so nothing else has to be passed to it.
Shapes: s slots, b batch, n heads of this rank, g key/value heads of this rank, d head width.
"""

import copy
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from meditron.config.check import require
from meditron.errors import EnvironmentMissingError
from meditron.models.options.landmark.attention import landmark_attention


class LandmarkCoreAttention(torch.nn.Module):
    """Attention core over slots.

    Args:
        config: Megatron's `TransformerConfig`.
        block_size: regular tokens of a block.
        kernel: use the Triton kernels on GPUs.

    Raises:
        ConfigError: the kernels are not made for the model's head width.
        EnvironmentMissingError: Triton is not installed.
    """

    def __init__(self, config: Any, block_size: int, kernel: bool = False, **_: object) -> None:  # noqa: ANN401
        super().__init__()
        self.block_size, self.scale = block_size, config.kv_channels**-0.5
        self._on_gpu = _kernel(block_size, config.kv_channels) if kernel else landmark_attention

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        *_: object,
        **__: object,
    ) -> Tensor:
        """Query [s, b, n, d], key and value [s, b, g, d] to [s, b, n d]."""
        assert attention_mask is None, "refused when the recipe is read"
        q_bnsd, k_bgsd, v_bgsd = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        attention = self._on_gpu if query.is_cuda else landmark_attention
        out_bnsd = attention(q_bnsd, k_bgsd, v_bgsd, self.block_size, self.scale)
        return out_bnsd.permute(2, 0, 1, 3).reshape(*query.shape[:2], -1)


def _kernel(block_size: int, head_dim: int) -> Callable[[Tensor, Tensor, Tensor, int, float], Tensor]:
    if find_spec("triton") is None:
        raise EnvironmentMissingError(
            "model.options.landmark.kernel: triton is not installed; install it, or set the option to false"
        )
    from meditron.models.options.landmark.kernel import can_run, kernel_attention

    rule = f"is made for heads of 16 to 128 (powers of two), not of {head_dim}; set it to false"
    require(can_run(block_size, head_dim), "model.options.landmark.kernel", True, rule)
    return kernel_attention


def with_landmarks(spec: Any, block_size: int, kernel: bool) -> Any:  # noqa: ANN401 - megatron is not typed
    """A copy of a layer's spec with the landmark attention core."""
    changed = copy.deepcopy(spec)
    attention = changed.submodules.self_attention.submodules
    attention.core_attention = partial(LandmarkCoreAttention, block_size=block_size, kernel=kernel)
    return changed
