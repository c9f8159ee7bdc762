"""Attention over a pack, cut into blocks: what shares no beginning is never multiplied with each other.

Shapes: T tokens of a pass, P tokens of the cached prefix, Q tokens of a block, K tokens that they look at.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from evaluation.adapter.tree import Segment

CPU_CALL, GPU_CALL = 1024, 2**18
"""What one more call of attention costs, in pairs of tokens that are multiplied in that time."""
COPIED_KEY = 10
"""What a key and value of the prefix cost that are copied for one more call, in pairs."""

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Block:
    """Neighbouring tokens of a pass, with the tokens that they look at."""

    queries: slice
    """The tokens, in the pass."""
    keys: torch.Tensor | slice
    """Places, in the prefix followed by the pass, of what at least one of them looks at, [K]."""
    mask: torch.Tensor | None
    """Who looks at whom, [1, 1, Q, K]; None where each looks at itself and all before it, and Q is K."""


def to_blocks(segments: Sequence[Segment], prefix: int, device: torch.device) -> list[Block]:
    """The blocks of a pass.

    Args:
        segments: its segments; the ancestors of each come before it.
        prefix: P, the tokens of the cached prefix, at which all look.
        device: where the pass is computed.
    """
    call = (CPU_CALL if device.type == "cpu" else GPU_CALL) + COPIED_KEY * prefix
    # Earlier rows of a sequence have no use for the keys of later ones, which torch multiplies all the same:
    # with r rows a block, that is r / 2 pairs a row for nothing, against a call for every r rows.
    rows = math.isqrt(2 * call)
    lengths = np.array([len(segment.node.tokens) for segment in segments])
    follows = _follows(segments)
    return [
        block
        for run in _runs(follows, lengths, call)
        for block in _blocks(follows, lengths, run, prefix, rows, device)
    ]


def _follows(segments: Sequence[Segment]) -> npt.NDArray[np.bool_]:
    """Whether a segment is, or comes after, another one, [segments, segments]."""
    follows = np.eye(len(segments), dtype=bool)
    for place, segment in enumerate(segments):
        if segment.parent is not None:
            follows[place] |= follows[segment.parent]
    return follows


def _runs(follows: npt.NDArray[np.bool_], lengths: Places, call: int) -> Iterator[range]:
    """Runs of segments; a new one begins where multiplying strangers would cost more than another call."""
    begin = 0
    for place in range(1, len(lengths)):
        inside = lengths[begin:place]
        shared = inside[follows[place, begin:place]].sum()
        if lengths[place] * (2 * inside.sum() - shared) > call:
            yield range(begin, place)
            begin = place
    yield range(begin, len(lengths))


def _blocks(
    follows: npt.NDArray[np.bool_],
    lengths: Places,
    run: range,
    prefix: int,
    rows: int,
    device: torch.device,
) -> Iterator[Block]:
    """A run, cut into blocks of so many rows, each with the keys that one of its queries looks at."""
    starts = np.concatenate([[0], lengths.cumsum()])
    before = np.flatnonzero(follows[run.start : run.stop, : run.start].any(axis=0))
    own, shown = np.arange(run.start, run.stop), np.concatenate([before, np.arange(run.start, run.stop)])
    of_Q, of_K = (np.repeat(part, lengths[part]) for part in (own, shown))
    places_Q = np.arange(starts[run.start], starts[run.stop])
    places_K = np.concatenate([np.arange(starts[one], starts[one + 1]) for one in shown])
    looks_QK = follows[of_Q][:, of_K] & (places_K <= places_Q[:, None])
    looks_QK = np.concatenate([np.ones((len(of_Q), prefix), bool), looks_QK], axis=1)
    keys_K = np.concatenate([np.arange(prefix), places_K + prefix])
    for begin in range(0, len(places_Q), rows):
        looks = looks_QK[begin : begin + rows]
        seen = looks.any(axis=0)
        first = int(places_Q[begin])
        keys, mask = keys_K[seen], looks[:, seen]
        yield Block(
            queries=slice(first, first + len(looks)),
            keys=_as_slice(keys) or torch.as_tensor(keys, device=device),
            mask=None if _is_causal(mask) else torch.as_tensor(mask, device=device)[None, None],
        )


def _is_causal(mask: npt.NDArray[np.bool_]) -> bool:
    rows, columns = mask.shape
    return rows == columns and np.array_equal(mask, np.tri(rows, dtype=bool))


def _as_slice(places: Places) -> slice | None:
    """A run of places without gaps; taking it needs no copy."""
    first, last = int(places[0]), int(places[-1])
    return slice(first, last + 1) if last - first + 1 == len(places) else None


def attend(
    module: Any,  # noqa: ANN401 - transformers is untyped
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    blocks: Sequence[Block],
) -> torch.Tensor:
    """Attention of a pass, block by block.

    Args:
        module: the attention module, for its scale and its query heads per key head.
        query: [1, heads, T, width of a head].
        key: [1, key heads, P + T, width of a head].
        value: as `key`.
        blocks: blocks whose queries cover the pass in order.

    Returns:
        [1, T, heads, width of a head].
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    parts = [
        sdpa_attention_forward(
            module,
            query[:, :, block.queries],
            key[:, :, block.keys],
            value[:, :, block.keys],
            block.mask,
            scaling=module.scaling,
            is_causal=block.mask is None,
        )[0]
        for block in blocks
    ]
    return torch.cat(parts, dim=1)
