"""A plain Llama over a pack of segments: attention in blocks, and the last layer only where it is read.

Shapes: T tokens of the pass, P tokens of the cached prefix, N positions that are read, H width.
"""

from collections.abc import Sequence
from typing import Any

import torch

from evaluation.adapter.blocks import Block, attend

Rotary = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines of the positions."""


class Prefix:
    """Keys and values of the beginning that all tokens of a pass follow."""

    def __init__(self) -> None:
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.length = 0
        """P, its tokens."""

    def crop(self, tokens: int) -> None:
        """Take the last tokens off."""
        self.length -= tokens
        end = self.length
        self._layers = {n: (key[:, :, :end], value[:, :, :end]) for n, (key, value) in self._layers.items()}

    def followed_by(
        self, layer: int, key: torch.Tensor, value: torch.Tensor, keep: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a layer with those of the pass at their end, [1, key heads, P + T, ...].

        Args:
            layer: number of the layer.
            key: keys of the pass, [1, key heads, T, width of a head].
            value: its values, as `key`.
            keep: whether the pass becomes part of the prefix.
        """
        both = (key, value)
        if self.length:
            before = self._layers[layer]
            both = (torch.cat([before[0], key], dim=2), torch.cat([before[1], value], dim=2))
        if keep:
            self._layers[layer] = both
        return both


class LlamaPass:
    """Computes passes over the decoder of a `LlamaForCausalLM` with its own modules.

    Args:
        decoder: a `LlamaModel` of transformers.
    """

    def __init__(self, decoder: Any) -> None:  # noqa: ANN401 - transformers is untyped
        self._decoder = decoder
        self.prefix = Prefix()
        """What the next pass follows."""

    def __call__(
        self,
        ids_T: torch.Tensor,
        positions_T: torch.Tensor,
        blocks: Sequence[Block],
        read_N: torch.Tensor,
        keep: bool,
    ) -> torch.Tensor:
        """Hidden states after the last norm at the places that are read, [N, H].

        Args:
            ids_T: token ids.
            positions_T: their positions in their sequences.
            blocks: who looks at whom.
            read_N: places in the pass.
            keep: whether the pass becomes part of the prefix.
        """
        decoder = self._decoder
        hidden_1TH = decoder.embed_tokens(ids_T[None])
        rotary = decoder.rotary_emb(hidden_1TH, position_ids=positions_T[None])
        *layers, last = decoder.layers
        for layer in layers:
            attended_1TH = self._attention(layer, hidden_1TH, rotary, blocks, keep)
            hidden_1TH = _outputs(layer, hidden_1TH, attended_1TH)
        attended_1TH = self._attention(last, hidden_1TH, rotary, blocks, keep)
        hidden_1NH = _outputs(last, hidden_1TH[:, read_N], attended_1TH[:, read_N])
        if keep:
            self.prefix.length += len(ids_T)
        return decoder.norm(hidden_1NH)[0]  # type: ignore[no-any-return]

    def _attention(
        self,
        layer: Any,  # noqa: ANN401
        hidden_1TH: torch.Tensor,
        rotary: Rotary,
        blocks: Sequence[Block],
        keep: bool,
    ) -> torch.Tensor:
        """What the heads of a layer gather, [1, T, heads x width of a head]."""
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        module = layer.self_attn
        normed_1TH = layer.input_layernorm(hidden_1TH)
        query, key, value = (
            project(normed_1TH).unflatten(-1, (-1, module.head_dim)).transpose(1, 2)
            for project in (module.q_proj, module.k_proj, module.v_proj)
        )
        query, key = apply_rotary_pos_emb(query, key, *rotary)
        key, value = self.prefix.followed_by(module.layer_idx, key, value, keep)
        return attend(module, query, key, value, blocks).flatten(2)


def _outputs(layer: Any, hidden_1TH: torch.Tensor, attended_1TH: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
    """The rest of a layer: what was gathered, and the feed-forward network, added to the hidden states."""
    hidden_1TH = hidden_1TH + layer.self_attn.o_proj(attended_1TH)
    return hidden_1TH + layer.mlp(layer.post_attention_layernorm(hidden_1TH))  # type: ignore[no-any-return]
