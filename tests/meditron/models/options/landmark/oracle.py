"""The grouped softmax and the retrieval of arXiv 2305.16300, written as the loops they are defined by."""

from collections.abc import Callable

import torch
from torch import Tensor

from meditron.models.options.landmark.retrieval import RECENCY


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


Rotate = Callable[[Tensor, Tensor], Tensor]


def oracle_retrieval(
    q_HTD: Tensor,
    k_HTD: Tensor,
    v_HTD: Tensor,
    chunks: list[tuple[int, int]],
    block: int,
    top_k: int,
    retrieval: str,
    rotate: Rotate,
    scale: float,
) -> Tensor:
    """Section 3.2 of the paper, a query and a head at a time: [H, T, D].

    Args:
        q_HTD: queries without positions; `k_HTD`, `v_HTD`: keys and values, a head for each query head.
        chunks: first slot and end of what is read together.
        block: slots of a block, its landmark among them.
        top_k: blocks that are retrieved.
        retrieval: `head_token`, `head` or `token`.
        rotate: rotary embedding, of [..., D] at positions [...].
        scale: of the scores.
    """
    out = torch.zeros_like(q_HTD)
    for start, stop in chunks:
        kept = start // block
        count, tail = min(top_k, kept), start // block * block
        first = min(kept, top_k + 1) * block
        queries = rotate(q_HTD[:, start:stop], torch.arange(start, stop) - tail + first)
        recent = [kept > top_k and number >= kept - count for number in range(kept)]
        chosen = _choose(queries, k_HTD, recent, block, count, retrieval, rotate, scale)
        for head, query in ((h, n) for h in range(len(q_HTD)) for n in range(stop - start)):
            keys, values = [], []
            for place, number in enumerate(chosen[head][query]):
                span = slice(number * block, (number + 1) * block)
                positions = (place + recent[number]) * block + torch.arange(block)
                keys.append(rotate(k_HTD[head, span], positions))
                values.append(v_HTD[head, span])
            keys.append(rotate(k_HTD[head, tail:stop], torch.arange(stop - tail) + first))
            values.append(v_HTD[head, tail:stop])
            scores = torch.cat(keys) @ queries[head, query] * scale
            own = count * block + start - tail + query
            out[head, start + query] = _row(scores[None, None], own, block)[0, 0] @ torch.cat(values)
    return out


def _choose(
    queries_HQD: Tensor,
    k_HTD: Tensor,
    recent: list[bool],
    block: int,
    count: int,
    retrieval: str,
    rotate: Rotate,
    scale: float,
) -> list[list[list[int]]]:
    """The blocks of each head and query, in their order."""
    heads, length = queries_HQD.shape[:2]
    if not recent:
        return [[[]] * length] * heads
    old = len(recent) - count
    slots = torch.tensor([n - old + recent[n] if recent[n] or not old else 0 for n in range(len(recent))])
    landmarks = k_HTD[:, block - 1 : len(recent) * block : block]
    scores = queries_HQD @ rotate(landmarks, slots * block + block - 1).transpose(-1, -2) * scale
    scores = scores + torch.arange(len(recent)) * RECENCY
    shares = scores.softmax(-1)
    if retrieval == "head":
        scores = shares.amax(1, keepdim=True).expand_as(scores)
    elif retrieval == "token":
        scores = shares.amax(0, keepdim=True).expand_as(scores)
    chosen: list[list[list[int]]] = scores.topk(count, -1).indices.sort(-1).values.tolist()
    return chosen
