"""The grouped softmax of arXiv 2305.16300, equations 1 to 4, written as the loops it is defined by."""

import torch
from torch import Tensor


def oracle_attention(q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, block_size: int, scale: float) -> Tensor:
    heads, groups = q_BHTD.shape[1], k_BGTD.shape[1]
    k, v = (x.repeat_interleave(heads // groups, 1) for x in (k_BGTD, v_BGTD))
    scores = q_BHTD @ k.transpose(-1, -2) * scale
    rows = [_row(scores[:, :, i], i, block_size + 1) for i in range(q_BHTD.shape[2])]
    return torch.stack(rows, 2) @ v


def _row(scores_BHT: Tensor, i: int, block: int) -> Tensor:
    """Weights of query `i`: the softmax of each group, then products with the landmarks' weights."""
    slots = scores_BHT.shape[-1]
    own = i // block

    def landmark_of(j: int) -> int:
        return j // block * block + block - 1

    def group(j: int) -> int:
        if landmark_of(j) != j:
            return landmark_of(j)
        return -1 if j // block == own else landmark_of(i)

    groups = {j: group(j) for j in range(i + 1)}
    softmax = {}
    for name in set(groups.values()) - {-1}:
        members = [j for j in groups if groups[j] == name]
        for j, weight in zip(members, scores_BHT[..., members].softmax(-1).unbind(-1), strict=True):
            softmax[j] = weight
    zero = torch.zeros_like(scores_BHT[..., 0])
    weights = [zero] * slots
    for j in range(i + 1):
        if landmark_of(j) != j:
            gate = softmax[landmark_of(j)] if j // block < own else 1.0
            weights[j] = softmax[j] * gate
    return torch.stack(weights, -1)
