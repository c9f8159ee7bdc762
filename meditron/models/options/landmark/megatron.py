"""Landmark attention for megatron-core: another attention core in the layer's spec.

Where landmarks stand follows from the slot's number, so nothing else has to be passed to it.
"""

import copy
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from meditron.config.check import require
from meditron.errors import EnvironmentMissingError
from meditron.models.megatron.attention import AttentionCore
from meditron.models.options.landmark.attention import landmark_attention


class LandmarkCoreAttention(AttentionCore):
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
        super().__init__(config)
        self.block_size = block_size
        self._on_gpu = _kernel(block_size, config.kv_channels) if kernel else landmark_attention

    def attend(self, q_bnsd: Tensor, k_bgsd: Tensor, v_bgsd: Tensor, mask_bnss: Tensor | None) -> Tensor:
        """Landmark attention over whole sequences."""
        assert mask_bnss is None, "refused when the recipe is read"
        attention = self._on_gpu if q_bnsd.is_cuda else landmark_attention
        return attention(q_bnsd, k_bgsd, v_bgsd, self.block_size, self.scale)


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
