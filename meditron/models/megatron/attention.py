"""Attention cores for Megatron's layers.

Shapes: s sequence, b batch, n heads of this rank, g key/value heads of this rank, d head width; under context
parallelism over c processes, s is a c-th of the sequence outside the core, and n and g c-ths inside.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from meditron.models.megatron.cpu import quiet_import

with quiet_import():
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import all_to_all


def to_heads(x_sbnd: Tensor) -> Tensor:
    """From a part of the sequence and all heads to the whole sequence and a part of the heads.

    One all-to-all over the context-parallel processes (DeepSpeed-Ulysses, arXiv 2309.14509, section 3.1). The
    c-th of C processes has parts c and 2 C - 1 - c of 2 C, as Megatron cuts samples and rotary embeddings.
    """
    group = parallel_state.get_context_parallel_group()
    count = group.size()
    parts = torch.unflatten(x_sbnd, 2, (count, -1)).permute(2, 0, 1, 3, 4)
    halves = torch.unflatten(all_to_all(group, parts), 1, (2, -1))
    return torch.cat([halves[:, 0], halves[:, 1].flip(0)]).flatten(0, 1)


def to_sequence(x_sbnd: Tensor) -> Tensor:
    """The way back from `to_heads`."""
    group = parallel_state.get_context_parallel_group()
    parts = torch.unflatten(x_sbnd, 0, (2 * group.size(), -1))
    halves = torch.stack([parts[: group.size()], parts[group.size() :].flip(0)], 1).flatten(1, 2)
    exchanged: Tensor = all_to_all(group, halves)
    return exchanged.permute(1, 2, 0, 3, 4).flatten(2, 3)


class AttentionCore(torch.nn.Module):
    """What Megatron calls between its projections; `attend` says what is computed.

    `attend` sees whole sequences, also under sequence and context parallelism, and this rank's heads.

    Args:
        config: Megatron's `TransformerConfig`.
    """

    def __init__(self, config: Any, **_: object) -> None:  # noqa: ANN401 - megatron is not typed
        super().__init__()
        self.scale: float = config.kv_channels**-0.5
        self._exchanges = config.context_parallel_size > 1

    def attend(self, q_bnsd: Tensor, k_bgsd: Tensor, v_bgsd: Tensor, mask_bnss: Tensor | None) -> Tensor:
        """Attention with positions applied, [b, n, s, d]; the mask, bool [b, 1, s, s], is true where a token
        may look, and None is all before it."""
        raise NotImplementedError

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
        if self._exchanges:
            query, key, value = (to_heads(x) for x in (query, key, value))
        q_bnsd, k_bgsd, v_bgsd = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        out_sbnd = self.attend(q_bnsd, k_bgsd, v_bgsd, attention_mask).permute(2, 0, 1, 3)
        return (to_sequence(out_sbnd) if self._exchanges else out_sbnd).flatten(2)


class CausalAttention(AttentionCore):
    """Torch's `scaled_dot_product_attention`: flash on GPUs, no mask in memory."""

    def attend(self, q_bnsd: Tensor, k_bgsd: Tensor, v_bgsd: Tensor, mask_bnss: Tensor | None) -> Tensor:
        """Ordinary attention."""
        return F.scaled_dot_product_attention(
            q_bnsd,
            k_bgsd,
            v_bgsd,
            attn_mask=mask_bnss,
            is_causal=mask_bnss is None,
            scale=self.scale,
            enable_gqa=q_bnsd.shape[1] != k_bgsd.shape[1],
        )
