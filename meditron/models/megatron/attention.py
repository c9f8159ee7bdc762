"""Attention cores for Megatron's layers.

Shapes: s sequence, b batch, n heads of this rank, g key/value heads of this rank, d head width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class AttentionCore(torch.nn.Module):
    """What Megatron calls between its projections; `attend` says what is computed.

    It sees whole sequences, also under sequence parallelism, and this rank's heads under tensor parallelism.

    Args:
        config: Megatron's `TransformerConfig`.
    """

    def __init__(self, config: Any, **_: object) -> None:  # noqa: ANN401 - megatron is not typed
        super().__init__()
        self.scale: float = config.kv_channels**-0.5

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
        q_bnsd, k_bgsd, v_bgsd = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        out_bnsd = self.attend(q_bnsd, k_bgsd, v_bgsd, attention_mask)
        return out_bnsd.permute(2, 0, 1, 3).reshape(*query.shape[:2], -1)


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
