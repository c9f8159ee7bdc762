"""Where landmarks stand among tokens. Shapes: B rows, S regular tokens, T slots.

A block is `block_size` regular tokens and, in its last slot, their landmark.
"""

from typing import NamedTuple

import torch
from torch import Tensor


def insert_every(tokens: Tensor, block_size: int, value: int) -> Tensor:
    """Put `value` after each whole block: [..., S] to [..., S + S // block_size]."""
    length = tokens.shape[-1]
    whole = length - length % block_size
    blocks = torch.unflatten(tokens[..., :whole], -1, (-1, block_size))
    landmarks = torch.full_like(blocks[..., :1], value)
    filled = torch.cat([blocks, landmarks], dim=-1).flatten(-2)
    return torch.cat([filled, tokens[..., whole:]], dim=-1)


class Slots(NamedTuple):
    """New tokens of rows that may differ in length, each row from its first slot on."""

    ids: Tensor
    """Token ids with landmarks; what is beyond a row's count is not meant."""
    counts: Tensor
    """New slots of each row."""
    slot_of: Tensor
    """The slot of each regular token; 0 for padding."""


def lay_out(
    ids_BS: Tensor, mask_BS: Tensor | None, tail_B: Tensor, block_size: int, landmark_id: int
) -> Slots:
    """Close the gaps that padding leaves, and put landmarks in.

    Args:
        ids_BS: regular tokens, padded on either side.
        mask_BS: 0 where a token is padding. Default: none is.
        tail_B: regular tokens of the unfinished block that each row already has.
        block_size: regular tokens of a block.
        landmark_id: token id.
    """
    batch, length = ids_BS.shape
    is_token = torch.ones_like(ids_BS, dtype=torch.bool) if mask_BS is None else mask_BS.bool()
    rank_BS = is_token.long().cumsum(1) - 1
    phase_BS = rank_BS + tail_B[:, None]
    slot_BS = (rank_BS + phase_BS // block_size).masked_fill(~is_token, 0)
    tokens_B = is_token.sum(1)
    counts_B = tokens_B + (tail_B + tokens_B) // block_size
    width = length + (length + block_size - 1) // block_size
    # Whatever is not overwritten by a regular token is a landmark; padding goes to one more slot, cut off.
    slots = ids_BS.new_full((batch, width + 1), landmark_id)
    slots.scatter_(1, slot_BS.masked_fill(~is_token, width), ids_BS)
    return Slots(slots[:, : int(counts_B.max())], counts_B, slot_BS)
