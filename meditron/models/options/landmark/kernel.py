"""Landmark attention as Triton kernels, forward and backward. Checked under Triton's interpreter, not timed.

A program holds one block of queries or, for the gradient of keys and values, one block of keys: a block of
the method is a block of the kernel, so `block_size` + 1 is a power of two, at least 16. The arithmetic is
that of `attention.py`: the scores of an earlier block get the bias landmark - logsumexp(block) and join one
running softmax. Nothing of quadratic size is stored, and gradients are added without atomics.

Shapes: B batch, H query heads, G key/value heads, T slots, D head width, P slots of a block.
"""
# The language inside the kernels is Triton's, whose values have no Python type.
# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _offsets(head, block, slots, P: tl.constexpr, D: tl.constexpr):
    """Where the numbers of a block of a head lie, [P, D]."""
    rows = head * slots + block * P + tl.arange(0, P)
    return rows[:, None] * D + tl.arange(0, D)[None, :]


@triton.jit
def _block_scores(q_PD, k_PD, scale, is_own, P: tl.constexpr):
    """Biased scores, -inf where nothing is seen, and the softmax inside the block; both [P, P]."""
    place = tl.arange(0, P)
    regular = place[None, :] < P - 1
    seen = regular & ((is_own == 0) | (place[None, :] <= place[:, None]))
    scores = tl.dot(q_PD, tl.trans(k_PD), input_precision="ieee") * scale
    landmark = tl.sum(tl.where(regular, 0.0, scores), 1)
    largest = tl.max(tl.where(regular, scores, float("-inf")), 1)
    exp = tl.where(regular, tl.exp(scores - largest[:, None]), 0.0)
    total = tl.sum(exp, 1)
    bias = tl.where(is_own == 0, landmark - largest - tl.log(total), 0.0)
    return tl.where(seen, scores + bias[:, None], float("-inf")), exp / total[:, None]


@triton.jit
def _block_gradient(q_PD, k_PD, v_PD, do_PD, lse_P, delta_P, scale, is_own, P: tl.constexpr):
    """Weights and the gradient of q k / sqrt(D), both [P, P]; see `attention._score_gradient`."""
    biased, inner = _block_scores(q_PD, k_PD, scale, is_own, P)
    weights = tl.exp(biased - lse_P[:, None])
    d_weights = tl.dot(do_PD, tl.trans(v_PD), input_precision="ieee")
    d_biased = weights * (d_weights - delta_P[:, None])
    d_bias = tl.where(is_own == 0, tl.sum(d_biased, 1), 0.0)
    d_regular = d_biased - d_bias[:, None] * inner
    is_landmark = tl.arange(0, P)[None, :] == P - 1
    return weights, tl.where(is_landmark, d_bias[:, None], d_regular) * scale


@triton.jit
def _forward(q, k, v, out, lse, scale, slots, group, P: tl.constexpr, D: tl.constexpr):
    block, head = tl.program_id(0), tl.program_id(1)
    mine = _offsets(head, block, slots, P, D)
    q_PD = tl.load(q + mine)
    largest_P = tl.full((P,), float("-inf"), tl.float32)
    total_P = tl.zeros((P,), tl.float32)
    sum_PD = tl.zeros((P, D), tl.float32)
    for number in range(block + 1):
        theirs = _offsets(head // group, number, slots, P, D)
        v_PD = tl.load(v + theirs)
        biased, _ = _block_scores(q_PD, tl.load(k + theirs), scale, number == block, P)
        new_P = tl.maximum(largest_P, tl.max(biased, 1))
        weights = tl.exp(biased - new_P[:, None])
        kept_P = tl.exp(largest_P - new_P)
        total_P = total_P * kept_P + tl.sum(weights, 1)
        read_PD = tl.dot(weights.to(v_PD.dtype), v_PD, input_precision="ieee")
        sum_PD = sum_PD * kept_P[:, None] + read_PD
        largest_P = new_P
    tl.store(out + mine, (sum_PD / total_P[:, None]).to(out.dtype.element_ty))
    tl.store(lse + head * slots + block * P + tl.arange(0, P), largest_P + tl.log(total_P))


@triton.jit
def _backward_queries(
    q, k, v, do, lse, delta, dq, scale, slots, group, P: tl.constexpr, D: tl.constexpr
):  # fmt: skip
    block, head = tl.program_id(0), tl.program_id(1)
    mine = _offsets(head, block, slots, P, D)
    rows = head * slots + block * P + tl.arange(0, P)
    q_PD, do_PD, lse_P, delta_P = (
        tl.load(q + mine),
        tl.load(do + mine),
        tl.load(lse + rows),
        tl.load(delta + rows),
    )
    dq_PD = tl.zeros((P, D), tl.float32)
    for number in range(block + 1):
        theirs = _offsets(head // group, number, slots, P, D)
        k_PD, v_PD = tl.load(k + theirs), tl.load(v + theirs)
        _, d_scores = _block_gradient(q_PD, k_PD, v_PD, do_PD, lse_P, delta_P, scale, number == block, P)
        dq_PD += tl.dot(d_scores.to(k_PD.dtype), k_PD, input_precision="ieee")
    tl.store(dq + mine, dq_PD.to(dq.dtype.element_ty))


@triton.jit
def _backward_keys(
    q, k, v, do, lse, delta, dk, dv, scale, slots, group, blocks, P: tl.constexpr, D: tl.constexpr
):  # fmt: skip
    block, own = tl.program_id(0), tl.program_id(1)
    mine = _offsets(own, block, slots, P, D)
    k_PD, v_PD = tl.load(k + mine), tl.load(v + mine)
    dk_PD, dv_PD = tl.zeros((P, D), tl.float32), tl.zeros((P, D), tl.float32)
    for head in range(own * group, (own + 1) * group):
        for number in range(block, blocks):
            theirs = _offsets(head, number, slots, P, D)
            rows = head * slots + number * P + tl.arange(0, P)
            q_PD, do_PD = tl.load(q + theirs), tl.load(do + theirs)
            weights, d_scores = _block_gradient(
                q_PD, k_PD, v_PD, do_PD, tl.load(lse + rows), tl.load(delta + rows), scale, number == block, P
            )
            dv_PD += tl.dot(tl.trans(weights).to(do_PD.dtype), do_PD, input_precision="ieee")
            dk_PD += tl.dot(tl.trans(d_scores).to(q_PD.dtype), q_PD, input_precision="ieee")
    tl.store(dk + mine, dk_PD.to(dk.dtype.element_ty))
    tl.store(dv + mine, dv_PD.to(dv.dtype.element_ty))


def can_run(block_size: int, head_dim: int) -> bool:
    """Whether the kernels are made for these sizes: powers of two from 16, heads up to 128 wide."""
    sizes = (block_size + 1, head_dim)
    return all(size >= 16 and size & (size - 1) == 0 for size in sizes) and head_dim <= 128


def kernel_attention(q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, block_size: int, scale: float) -> Tensor:
    """`attention.landmark_attention` on a GPU; the same arguments and result."""
    assert can_run(block_size, q_BHTD.shape[-1]), "the caller asks can_run()"
    slots = q_BHTD.shape[2]
    padding = (0, 0, 0, -slots % (block_size + 1))
    padded = [torch.nn.functional.pad(x, padding).contiguous() for x in (q_BHTD, k_BGTD, v_BGTD)]
    out: Tensor = _KernelAttention.apply(*padded, block_size + 1, scale)
    return out[:, :, :slots]


class _KernelAttention(torch.autograd.Function):
    """Over whole blocks; heads of all rows lie after one another, so that a group's never cross a row."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's context
        q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, block: int, scale: float,
    ) -> Tensor:  # fmt: skip
        batch, heads, slots, width = q_BHTD.shape
        out_BHTD = torch.empty_like(q_BHTD)
        lse_BHT = torch.empty(q_BHTD.shape[:3], dtype=torch.float32, device=q_BHTD.device)
        group = heads // k_BGTD.shape[1]
        _forward[(slots // block, batch * heads)](
            q_BHTD, k_BGTD, v_BGTD, out_BHTD, lse_BHT, scale, slots, group, P=block, D=width
        )
        ctx.save_for_backward(q_BHTD, k_BGTD, v_BGTD, out_BHTD, lse_BHT)
        ctx.settings = scale, slots, group, block, width
        return out_BHTD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        q_BHTD, k_BGTD, v_BGTD, out_BHTD, lse_BHT = ctx.saved_tensors
        scale, slots, group, block, width = ctx.settings
        do_BHTD = grads[0].contiguous()
        delta_BHT = (do_BHTD.float() * out_BHTD.float()).sum(-1)
        read = (q_BHTD, k_BGTD, v_BGTD, do_BHTD, lse_BHT, delta_BHT)
        dq, dk, dv = torch.empty_like(q_BHTD), torch.empty_like(k_BGTD), torch.empty_like(v_BGTD)
        blocks, sizes = slots // block, {"P": block, "D": width}
        _backward_queries[(blocks, q_BHTD.shape[0] * q_BHTD.shape[1])](
            *read, dq, scale, slots, group, **sizes
        )
        _backward_keys[(blocks, k_BGTD.shape[0] * k_BGTD.shape[1])](
            *read, dk, dv, scale, slots, group, blocks, **sizes
        )
        return dq, dk, dv, None, None
