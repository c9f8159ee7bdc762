"""Landmark attention in plain torch (arXiv 2305.16300, equations 1 to 4).

Shapes: B batch, H query heads, G key/value heads, R query heads a group (H = G R), T slots, Q queries,
N blocks, P slots of a block (block_size + 1), L = P - 1 regular tokens of a block, D head width.

The grouped softmax of the paper is computed as an ordinary one. With a = q k / sqrt(D), the weight of
regular token j in an earlier block r is softmax(a_j + landmark_r - logsumexp(a of the block)): the second
term moves the block's whole mass to that of its landmark. A query's own block has no such term, and
landmarks have no value.
"""

from typing import Any

import torch
from torch import Tensor

TILE_SLOTS = 512
"""Queries that are worked on together; memory is this times the sequence length a head."""


def landmark_weights(scores_NP: Tensor, earlier_N: Tensor, allowed_NL: Tensor) -> tuple[Tensor, Tensor]:
    """Attention weights of regular tokens.

    Args:
        scores_NP: q k / sqrt(D) by block, [..., N, P], the landmark last; any float format.
        earlier_N: blocks that are reached through their landmark, bool, broadcastable to [..., N].
        allowed_NL: regular tokens that may be seen, bool, broadcastable to [..., N, L].

    Returns:
        weights [..., N, L] in fp32, which sum to 1 over the last two axes, and the softmax inside each
        block, of the same shape, which the gradient needs.
    """
    scores_NP = scores_NP.float()
    regular_NL, landmark_N = scores_NP[..., :-1], scores_NP[..., -1]
    largest_N1 = regular_NL.amax(-1, keepdim=True)
    exp_NL = (regular_NL - largest_N1).exp_()
    sum_N1 = exp_NL.sum(-1, keepdim=True)
    bias_N1 = torch.where(earlier_N[..., None], landmark_N[..., None] - largest_N1 - sum_N1.log(), 0.0)
    biased_NL = torch.where(allowed_NL, regular_NL + bias_N1, -torch.inf)
    weights = torch.softmax(biased_NL.flatten(-2), -1).view_as(biased_NL)
    return weights, exp_NL.div_(sum_N1)


def landmark_attention(
    q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, block_size: int, scale: float, tile: int = TILE_SLOTS
) -> Tensor:
    """Attention over a whole sequence that begins with a block and has a landmark after each whole one.

    Args:
        q_BHTD: queries, positions applied.
        k_BGTD: keys, positions applied.
        v_BGTD: values; those of landmarks are not read.
        block_size: regular tokens of a block.
        scale: usually D^-1/2.
        tile: queries that are worked on together, rounded down to whole blocks (at least one).

    Returns:
        [B, H, T, D] in the format of the queries; the softmax is in fp32.
    """
    block = block_size + 1
    rows = max(tile // block, 1) * block
    out: Tensor = _TiledAttention.apply(q_BHTD, k_BGTD, v_BGTD, block, scale, rows)  # type: ignore[no-untyped-call]
    return out


class _TiledAttention(torch.autograd.Function):
    """Weights are computed a tile of queries at a time, and again for the gradient: none are kept."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's context
        q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, block: int, scale: float, rows: int,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(q_BHTD, k_BGTD, v_BGTD)
        ctx.settings = block, scale, rows
        k_BGKD, v_BGND = _padded(k_BGTD, block), _regular(_padded(v_BGTD, block), block)
        out_BHTD = torch.empty_like(q_BHTD)
        for start in range(0, q_BHTD.shape[2], rows):
            tile = slice(start, min(start + rows, q_BHTD.shape[2]))
            weights, _ = _tile_weights(q_BHTD[:, :, tile], k_BGKD, start, block, scale)
            values = v_BGND[:, :, : weights.shape[-1]]
            out_BHTD[:, :, tile] = _ungroup(weights.to(values.dtype) @ values, q_BHTD.shape[1])
        return out_BHTD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        q_BHTD, k_BGTD, v_BGTD = ctx.saved_tensors
        block, scale, rows = ctx.settings
        k_BGKD, v_BGND = _padded(k_BGTD, block), _regular(_padded(v_BGTD, block), block)
        dq_BHTD = torch.empty_like(q_BHTD)
        dk_BGKD, dv_BGND = (torch.zeros_like(x, dtype=torch.float32) for x in (k_BGKD, v_BGND))
        for start in range(0, q_BHTD.shape[2], rows):
            tile = slice(start, min(start + rows, q_BHTD.shape[2]))
            weights, inner = _tile_weights(q_BHTD[:, :, tile], k_BGKD, start, block, scale)
            regular, groups = weights.shape[-1], k_BGKD.shape[1]
            grad = _group(grads[0][:, :, tile], groups)
            dv_BGND[:, :, :regular] += weights.to(grad.dtype).transpose(-1, -2) @ grad
            d_weights = (grad @ v_BGND[:, :, :regular].transpose(-1, -2)).float()
            d_scores = _score_gradient(weights, inner, d_weights, start, tile.stop, block) * scale
            d_scores = d_scores.to(q_BHTD.dtype)
            keys = d_scores.shape[-1]
            dq_BHTD[:, :, tile] = _ungroup(d_scores @ k_BGKD[:, :, :keys], q_BHTD.shape[1])
            dk_BGKD[:, :, :keys] += d_scores.transpose(-1, -2) @ _group(q_BHTD[:, :, tile], groups)
        slots = k_BGTD.shape[2]
        dv_BGNLD = torch.unflatten(dv_BGND, 2, (-1, block - 1))
        dv_BGKD = torch.nn.functional.pad(dv_BGNLD, (0, 0, 0, 1)).flatten(2, 3)
        dk, dv = (x[:, :, :slots].to(k_BGTD.dtype) for x in (dk_BGKD, dv_BGKD))
        return dq_BHTD, dk, dv, None, None, None


def _padded(x_BGTD: Tensor, block: int) -> Tensor:
    """Filled up to whole blocks; causality keeps what is filled in from being seen."""
    return torch.nn.functional.pad(x_BGTD, (0, 0, 0, -x_BGTD.shape[2] % block))


def _regular(x_BGKD: Tensor, block: int) -> Tensor:
    """Without landmarks: [B, G, N L, D]."""
    return torch.unflatten(x_BGKD, 2, (-1, block))[:, :, :, :-1].flatten(2, 3)


def _group(x_BHQD: Tensor, groups: int) -> Tensor:
    """Query heads of a group after one another: [B, G, R Q, D]."""
    return torch.unflatten(x_BHQD, 1, (groups, -1)).flatten(2, 3)


def _ungroup(x_BGMD: Tensor, heads: int) -> Tensor:
    return torch.unflatten(x_BGMD, 2, (heads // x_BGMD.shape[1], -1)).flatten(1, 2)


def _tile_masks(start: int, stop: int, block: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For the queries of a tile: which blocks are earlier [Q, N], which regular tokens are seen [Q, N, L]."""
    queries = torch.arange(start, stop, device=device)[:, None]
    slots = torch.arange(-(-stop // block) * block, device=device).view(-1, block)
    earlier_QN = slots[:, 0][None] // block < queries // block
    return earlier_QN, slots[None, :, :-1] <= queries[..., None]


def _tile_weights(
    q_BHQD: Tensor, k_BGKD: Tensor, start: int, block: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Weights of a tile's queries [B, G, R Q, N L], and the softmax within blocks [B, G, R Q, N, L]."""
    stop = start + q_BHQD.shape[2]
    earlier_QN, allowed_QNL = _tile_masks(start, stop, block, q_BHQD.device)
    keys = earlier_QN.shape[1] * block
    scores = _group(q_BHQD, k_BGKD.shape[1]) @ k_BGKD[:, :, :keys].transpose(-1, -2)
    scores_BGRQK = torch.unflatten(scores.float().mul_(scale), 2, (-1, stop - start))
    weights, inner = landmark_weights(torch.unflatten(scores_BGRQK, -1, (-1, block)), earlier_QN, allowed_QNL)
    return weights.flatten(2, 3).flatten(-2), inner.flatten(2, 3)


def _score_gradient(
    weights: Tensor, inner: Tensor, d_weights: Tensor, start: int, stop: int, block: int
) -> Tensor:
    """Gradient of q k / sqrt(D), [B, G, R Q, N P].

    Of the ordinary softmax first; then of the term that moves an earlier block's mass to its landmark,
    whose gradient is the block's sum, given to the landmark and taken from its tokens by their share.
    """
    centred = d_weights - (weights * d_weights).sum(-1, keepdim=True)
    by_query = (-1, stop - start)
    d_biased = torch.unflatten(torch.unflatten(weights * centred, -1, (-1, block - 1)), 2, by_query)
    earlier_QN, _ = _tile_masks(start, stop, block, weights.device)
    d_bias = d_biased.sum(-1, keepdim=True) * earlier_QN[..., None]
    d_regular = d_biased - d_bias * torch.unflatten(inner, 2, by_query)
    return torch.cat([d_regular, d_bias], -1).flatten(2, 3).flatten(-2)
