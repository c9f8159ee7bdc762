"""Which kept blocks a query reads, and at which positions (arXiv 2305.16300, section 3.2).

A query scores the landmarks of all kept blocks and reads the `top_k` best. Positions are stingy: the `top_k`
most recent blocks stand right before the chunk at their own distances, all older ones to their left with one
empty slot between. Kept keys are rotated as if their block were the first; a query that reads a block at
another slot is turned back by as much, which is far less than turning all its keys.

Shapes: B rows, H query heads, G key/value heads, Q queries of a row, N kept blocks, M retrieved blocks,
C blocks of the chunk, P slots of a block, L = P - 1, D head width; X is 1 where a head chooses for all
queries of a chunk, else Q, and R = Q / X.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

RETRIEVALS = ("head_token", "head", "token")
"""Who chooses blocks: each head for each token, each head for a chunk, each token for all heads."""
RECENCY = 1e-5
"""Added to a block's score for each block before it. In the first layer all landmarks have the same key;
which of them is read shall not hang on rounding."""


class Turn(NamedTuple):
    """A rotary embedding in Llama's layout, of some positions."""

    cos: Tensor
    """[..., D], broadcastable to what is turned."""
    sin: Tensor
    """The same."""

    def __call__(self, x: Tensor) -> Tensor:
        """Turn to the positions."""
        return x * self.cos + _half_turned(x) * self.sin

    def back(self, x: Tensor) -> Tensor:
        """Turn back from them."""
        return x * self.cos - _half_turned(x) * self.sin

    def at(self, positions: Tensor) -> "Turn":
        """The rotation at each of `positions` [...], from a table of all: [..., D]."""
        return Turn(self.cos[positions], self.sin[positions])


def _half_turned(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat([-x[..., half:], x[..., :half]], -1)


@dataclass(kw_only=True)
class Kept:
    """The blocks that were kept before a pass."""

    count: int
    """Blocks that a query retrieves, M."""
    limit: Tensor
    """Kept blocks of each row, [B, 1, 1, 1]."""
    absent: Tensor | None
    """Blocks that a row does not have, bool [B, 1, 1, N]; None where all rows have as many."""
    recency: Tensor
    """What is added to their scores, [N]."""
    recent: Tensor
    """Numbers of the `top_k` most recent, [B, M]."""
    recent_turn: Turn
    """Rotation from the first slot to theirs, [B, 1, M, D]."""
    block_turn: Turn
    """Rotation from the first slot to each of the prefix, [M + 1, D]."""
    skips: Tensor
    """Whether an empty slot stands before the recent ones, bool [B, 1, 1, 1]."""


@dataclass(kw_only=True)
class Pass:
    """New slots of all rows, and what is the same for all layers that read them."""

    counts: list[int]
    """New slots of each row."""
    padding: Tensor
    """Queries that are no slots of their row, bool [B, Q]."""
    local: Tensor
    """Place of each query, counted from the start of its row's unfinished block, [B, Q]."""
    query_turn: Turn
    """Rotation of the queries, [B, 1, Q, D]."""
    key_turn: Turn
    """Rotation of the keys from that start on, [B, 1, C P, D]."""
    block_turn: Turn
    """Rotation inside the first block, [P, D]."""
    earlier: Tensor
    """Blocks of the chunk that are reached through their landmark, bool [B, 1, Q, C]."""
    allowed: Tensor
    """Regular tokens of the chunk that may be seen, bool [B, 1, Q, C, L]."""
    kept: Kept | None
    """Older blocks; None where there are none, or none are read."""


def plan_pass(
    counts_B: Tensor,
    blocks: Sequence[int],
    tails: Sequence[int],
    block: int,
    top_k: int,
    rotary: Any,  # noqa: ANN401 - a module that returns cosines and sines
    like: Tensor,
) -> Pass:
    """Positions and masks of a pass.

    Args:
        counts_B: new slots of each row.
        blocks: kept blocks of each row.
        tails: slots of each row's unfinished block.
        block: slots of a block.
        top_k: blocks that a query retrieves.
        rotary: the model's rotary embedding.
        like: any tensor of the model's device and format.
    """
    device, counts = like.device, counts_B.tolist()
    new_Q = torch.arange(max(counts), device=device)
    local_BQ = torch.tensor(tails, device=device)[:, None] + new_Q
    blocks_B = torch.tensor(blocks, device=device)
    first_B = blocks_B.clamp(max=top_k + 1) * block
    slots_K = torch.arange(-(-(max(tails) + max(counts)) // block) * block, device=device)
    positions = torch.arange(min(max(blocks), top_k + 1) * block + len(slots_K), device=device)
    cos, sin = rotary(like, positions[None])
    table, queries = Turn(cos[0], sin[0]), local_BQ[:, None, :, None]
    starts_C, regular_CL = slots_K[::block], slots_K.view(-1, block)[:, :-1]
    return Pass(
        counts=counts,
        padding=new_Q >= counts_B[:, None],
        local=local_BQ,
        query_turn=table.at((first_B[:, None] + local_BQ)[:, None]),
        key_turn=table.at((first_B[:, None] + slots_K)[:, None]),
        block_turn=table.at(positions[:block]),
        earlier=starts_C // block < queries // block,
        allowed=regular_CL <= queries[..., None],
        kept=_plan_kept(blocks, top_k, block, table) if max(blocks) and top_k else None,
    )


def _plan_kept(blocks: Sequence[int], top_k: int, block: int, table: Turn) -> Kept:
    device, most, least = table.cos.device, max(blocks), min(blocks)
    blocks_B1, count = torch.tensor(blocks, device=device)[:, None], min(top_k, most)
    number_N = torch.arange(most, device=device)
    recent_BM = (blocks_B1 - count + torch.arange(count, device=device)).clamp(min=0)
    slot_BM = recent_BM - (blocks_B1 - top_k).clamp(min=0) + (blocks_B1 > top_k).long()
    starts = torch.arange(min(most, top_k + 1), device=device) * block
    limit = blocks_B1[..., None, None]
    return Kept(
        count=count,
        limit=limit,
        absent=None if least == most else number_N >= limit,
        recency=number_N * RECENCY,
        recent=recent_BM,
        recent_turn=table.at(slot_BM[:, None] * block),
        block_turn=table.at(starts),
        skips=limit > top_k,
    )


@dataclass(kw_only=True)
class Found:
    """What a query reads of the kept blocks."""

    scores: Tensor
    """Of all their slots, fp32 [B, H, Q, M, P]."""
    valid: Tensor
    """Which of the blocks exist, bool [B, H, Q, M]."""
    values: Tensor
    """[B, H, X, M, P, D]."""
    read_bytes: int
    """Bytes of landmarks, keys and values that were read."""


def retrieve(
    q_BHQD: Tensor,
    landmarks_BGND: Tensor,
    pools: tuple[Tensor, Tensor],
    plan: Pass,
    retrieval: str,
    scale: float,
) -> Found:
    """The best blocks of each query, in their order, with their scores.

    Args:
        q_BHQD: queries, positions applied.
        landmarks_BGND: keys of the kept blocks' landmarks, turned to the first block's last slot.
        pools: keys and values of all blocks, [B, G, N or more, P, D]; keys turned as in the first block.
        plan: the pass.
        retrieval: `head_token`, `head` or `token`.
        scale: of the scores.
    """
    kept = plan.kept
    assert kept is not None, "the caller asks whether there are any"
    chosen = _rank(q_BHQD, landmarks_BGND, plan, kept, retrieval, scale).topk(kept.count, -1).indices
    # A row with fewer blocks than others ranks those that it lacks last, which sorting puts at the end.
    chosen = chosen.sort(-1).values
    recent = (chosen >= kept.limit - kept.count) & kept.skips
    slot_BHXM = torch.arange(kept.count, device=chosen.device) + recent
    keys, values = _gather(pools, chosen, q_BHQD)
    q_BHXRD = torch.unflatten(q_BHQD, 2, (chosen.shape[2], -1))
    turned = kept.block_turn.at(slot_BHXM[..., None]).back(q_BHXRD[:, :, :, None])
    scores_BHXMRP = (turned @ keys.transpose(-1, -2)).float().mul_(scale)
    scores = scores_BHXMRP.transpose(3, 4).flatten(2, 3)
    valid = (chosen < kept.limit).expand(*q_BHXRD.shape[:3], -1)
    number_bytes = landmarks_BGND.element_size()
    return Found(
        scores=scores,
        valid=valid.repeat_interleave(q_BHXRD.shape[3], 2),
        values=values,
        read_bytes=(landmarks_BGND.numel() + keys.numel() + values.numel()) * number_bytes,
    )


def _rank(
    q_BHQD: Tensor, landmarks_BGND: Tensor, plan: Pass, kept: Kept, retrieval: str, scale: float
) -> Tensor:
    """How good each kept block is: [B, H or 1, X, N].

    Landmarks of the most recent blocks count at their own slots, all older ones in the first block.
    """
    grouped = torch.unflatten(q_BHQD, 1, (landmarks_BGND.shape[1], -1))
    scores = _scores(grouped, landmarks_BGND)
    index = kept.recent[:, None, :, None].expand(-1, landmarks_BGND.shape[1], -1, landmarks_BGND.shape[3])
    new = _scores(grouped, kept.recent_turn(landmarks_BGND.gather(2, index)))
    scores = scores.scatter(-1, kept.recent[:, None, None].expand_as(new), new)
    scores = scores.mul_(scale).add_(kept.recency)
    if kept.absent is not None:
        scores = scores.masked_fill(kept.absent, -torch.inf)
    if retrieval == "head_token":
        return scores
    shares = scores.softmax(-1)
    if kept.absent is not None:
        shares = torch.where(kept.absent, -1.0, shares)
    if retrieval == "token":
        return shares.amax(1, keepdim=True)
    return shares.masked_fill(plan.padding[:, None, :, None], -1.0).amax(2, keepdim=True)


def _scores(grouped: Tensor, landmarks_BGND: Tensor) -> Tensor:
    """Of queries [B, G, H / G, Q, D]: fp32 [B, H, Q, N]."""
    return (grouped @ landmarks_BGND[:, :, None].transpose(-1, -2)).flatten(1, 2).float()


def _gather(pools: tuple[Tensor, Tensor], chosen: Tensor, like_BHQD: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks `chosen` ([B, H or 1, X, M]) of each query head's group, from both pools: [B, H, X, M, P, D]."""
    batch, groups, room, *block = pools[0].shape
    heads, device = like_BHQD.shape[1], pools[0].device
    group = torch.arange(batch * groups, device=device).view(batch, groups)
    first = room * group.repeat_interleave(heads // groups, 1)[..., None, None]
    number = first + chosen.to(device)

    def read(pool_BGNPD: Tensor) -> Tensor:
        blocks = pool_BGNPD.flatten(3).flatten(0, 2).index_select(0, number.flatten())
        return blocks.view(*number.shape, *block).to(like_BHQD.device)

    return read(pools[0]), read(pools[1])
