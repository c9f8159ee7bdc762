"""Random access to the blocks of an input of any length (arXiv 2305.16300, section 3.2 and appendix G).

The input is read in chunks. Keys and values of finished blocks are kept. A query reads the `top_k` blocks
whose landmarks it scores best (`retrieval.py`) and its own chunk, by landmark attention. Whatever the length,
all positions lie within the trained window.

Shapes: B rows, H query heads, G key/value heads, Q queries of a row, N kept blocks, M retrieved blocks,
C blocks of the chunk, P slots of a block, D head width.
"""

from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .attention import landmark_weights
from .retrieval import Found, Pass, plan_pass, retrieve

_FIRST_CAPACITY = 64


@dataclass(kw_only=True)
class LayerBlocks:
    """What one layer keeps; shapes [B, G, N, P, D], and without the axes that do not apply."""

    keys: Tensor
    """Keys of finished blocks, rotated as if each were the first, in a pool with room for more."""
    values: Tensor
    """Their values."""
    landmarks: Tensor
    """Keys of their landmarks, the last slot of each block; always on the model's device."""
    tail_keys: Tensor
    """Keys of the unfinished block, not rotated."""
    tail_values: Tensor
    """Its values."""


class LandmarkMemory:
    """The cache of a model for `generate` and for long inputs; rows may differ in length.

    Args:
        rotary: the model's rotary embedding.
        block_size: regular tokens of a block.
        top_k: blocks that are retrieved; 0 reads no more than the chunk.
        retrieval: `head_token`, `head` or `token`.
        offload: keep keys and values of finished blocks in main memory.
        capacity: blocks that the pools have room for from the start; they double when they are full.
    """

    is_compileable = False

    def __init__(
        self, rotary: Any, block_size: int, top_k: int, retrieval: str, offload: bool = False,  # noqa: ANN401
        capacity: int = _FIRST_CAPACITY,
    ) -> None:  # fmt: skip
        self.rotary, self.block, self.top_k = rotary, block_size + 1, top_k
        self.retrieval, self.offload, self.capacity = retrieval, offload, capacity
        self.layers: list[LayerBlocks] = []
        self.blocks: list[int] = []
        """Finished blocks of each row."""
        self.tails: list[int] = []
        """Slots of each row's unfinished block."""
        self.tokens = 0
        """Tokens read, padding included, as `generate` counts."""
        self.read_bytes = 0
        """Bytes of keys, values and landmarks that queries read in the last pass."""
        self._pass: Pass | None = None

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Regular tokens read so far."""
        return self.tokens

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """No limit, in the words of transformers."""
        return -1

    def repeated(self, rows: int) -> "LandmarkMemory":
        """A copy of a memory of one row, for `rows` that go on in their own ways."""
        copied = copy(self)
        copied.layers = [copy(layer) for layer in self.layers]
        copied.reorder_cache(torch.zeros(rows, dtype=torch.long))
        return copied

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Rows become those of `beam_idx`."""
        for layer in self.layers:
            for name in LayerBlocks.__dataclass_fields__:
                kept = getattr(layer, name)
                setattr(layer, name, kept.index_select(0, beam_idx.to(kept.device)))
        order = beam_idx.tolist()
        self.blocks = [self.blocks[row] for row in order]
        self.tails = [self.tails[row] for row in order]

    def begin(self, counts_B: Tensor, like: Tensor) -> None:
        """Start a pass over new slots.

        Args:
            counts_B: new slots of each row.
            like: any tensor of the model's device and format.
        """
        if not self.blocks:
            self.blocks, self.tails = [0] * len(counts_B), [0] * len(counts_B)
        self._pass = plan_pass(counts_B, self.blocks, self.tails, self.block, self.top_k, self.rotary, like)
        self.read_bytes = 0

    def end(self) -> None:
        """All layers have seen the pass: count what they kept."""
        assert self._pass is not None
        for row, count in enumerate(self._pass.counts):
            finished, self.tails[row] = divmod(self.tails[row] + count, self.block)
            self.blocks[row] += finished
        self._pass = None

    def attend(self, number: int, q_BHQD: Tensor, k_BGQD: Tensor, v_BGQD: Tensor, scale: float) -> Tensor:
        """Attention of layer `number` for the new slots, which it keeps: [B, H, Q, D].

        Queries and keys come without their positions.
        """
        plan = self._pass
        assert plan is not None, "begin() comes first"
        layer = self._layer(number, k_BGQD)
        keys, values = self._local(layer, k_BGQD, v_BGQD, plan)
        q_BHQD = plan.query_turn(q_BHQD)
        scores = self._local_scores(q_BHQD, plan.key_turn(keys), scale)
        if plan.kept is None:
            weights, _ = landmark_weights(scores, plan.earlier, plan.allowed)
            out = _weigh_local(weights, values)
        else:
            landmarks = layer.landmarks[:, :, : max(self.blocks)]
            found = retrieve(q_BHQD, landmarks, (layer.keys, layer.values), plan, self.retrieval, scale)
            self.read_bytes += found.read_bytes
            weights = _weights_with(found, scores, plan)
            out = _weigh_local(weights[..., plan.kept.count :, :], values)
            out = out + _weigh_found(weights[..., : plan.kept.count, :], found.values)
        self._keep(layer, keys, values, plan)
        return out

    def _layer(self, number: int, like_BGQD: Tensor) -> LayerBlocks:
        if number == len(self.layers):
            batch, groups, _, width = like_BGQD.shape
            tail = like_BGQD.new_zeros(batch, groups, self.block, width)
            shape = (batch, groups, self.capacity, self.block, width)
            self.layers.append(
                LayerBlocks(
                    keys=self._pool(like_BGQD, shape),
                    values=self._pool(like_BGQD, shape),
                    landmarks=like_BGQD.new_zeros(batch, groups, self.capacity, width),
                    tail_keys=tail,
                    tail_values=tail.clone(),
                )
            )
        return self.layers[number]

    def _pool(self, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        device = torch.device("cpu") if self.offload else like.device
        pinned = self.offload and like.is_cuda
        return torch.zeros(shape, dtype=like.dtype, device=device, pin_memory=pinned)

    def _local(self, layer: LayerBlocks, k_BGQD: Tensor, v_BGQD: Tensor, plan: Pass) -> tuple[Tensor, Tensor]:
        """Keys and values from the start of each row's unfinished block, in whole blocks."""
        more = plan.key_turn.cos.shape[-2] - self.block
        place = plan.local[:, None, :, None].expand_as(k_BGQD)

        def joined(tail_BGPD: Tensor, new_BGQD: Tensor) -> Tensor:
            room = F.pad(tail_BGPD, (0, 0, 0, more)) if more else tail_BGPD
            return room.scatter(2, place, new_BGQD)

        return joined(layer.tail_keys, k_BGQD), joined(layer.tail_values, v_BGQD)

    def _local_scores(self, q_BHQD: Tensor, k_BGKD: Tensor, scale: float) -> Tensor:
        """Scores of the chunk's own slots, fp32 [B, H, Q, C, P]."""
        grouped = torch.unflatten(q_BHQD, 1, (k_BGKD.shape[1], -1))
        scores = (grouped @ k_BGKD[:, :, None].transpose(-1, -2)).flatten(1, 2).float().mul_(scale)
        self.read_bytes += 2 * k_BGKD.numel() * k_BGKD.element_size()
        return torch.unflatten(scores, -1, (-1, self.block))

    def _keep(self, layer: LayerBlocks, keys_BGKD: Tensor, values_BGKD: Tensor, plan: Pass) -> None:
        """Finished blocks go to the pools, what is left over is the unfinished block."""
        last = [(tail + new) // self.block for tail, new in zip(self.tails, plan.counts, strict=True)]
        if not any(last) and keys_BGKD.shape[2] == self.block:
            layer.tail_keys, layer.tail_values = keys_BGKD, values_BGKD
            return
        self._grow(layer, max(old + new for old, new in zip(self.blocks, last, strict=True)))
        keys, values = (
            torch.unflatten(F.pad(x, (0, 0, 0, self.block)), 2, (-1, self.block))
            for x in (keys_BGKD, values_BGKD)
        )
        for row, finished in enumerate(last):
            kept = slice(self.blocks[row], self.blocks[row] + finished)
            if finished:
                turned = plan.block_turn(keys[row, :, :finished])
                layer.keys[row, :, kept] = turned.to(layer.keys.device)
                layer.values[row, :, kept] = values[row, :, :finished].to(layer.keys.device)
                layer.landmarks[row, :, kept] = turned[..., -1, :]
        at = torch.tensor(last, device=keys.device), torch.arange(len(last), device=keys.device)
        layer.tail_keys, layer.tail_values = (x[at[1], :, at[0]] for x in (keys, values))

    def _grow(self, layer: LayerBlocks, blocks: int) -> None:
        """Double full pools, so that all copying together is linear in the input."""
        old = layer.landmarks.shape[2]
        if blocks <= old:
            return
        self.capacity = max(2 * old, blocks)
        for name in ("keys", "values", "landmarks"):
            kept = getattr(layer, name)
            shape = (*kept.shape[:2], self.capacity, *kept.shape[3:])
            larger = kept.new_zeros(shape) if name == "landmarks" else self._pool(layer.landmarks, shape)
            larger[:, :, :old] = kept
            setattr(layer, name, larger)


def _weights_with(found: Found, scores_BHQCP: Tensor, plan: Pass) -> Tensor:
    """Attention weights of the retrieved blocks and then of the chunk's: [B, H, Q, M + C, L]."""
    valid = found.valid
    earlier = torch.cat([torch.ones_like(valid), plan.earlier.expand(*valid.shape[:-1], -1)], -1)
    seen = valid[..., None].expand(*valid.shape, plan.allowed.shape[-1])
    allowed = torch.cat([seen, plan.allowed.expand(*seen.shape[:-2], *plan.allowed.shape[-2:])], -2)
    weights, _ = landmark_weights(torch.cat([found.scores, scores_BHQCP], -2), earlier, allowed)
    return weights


def _weigh_local(weights_BHQCL: Tensor, v_BGKD: Tensor) -> Tensor:
    """Weighted sum of the chunk's values: [B, H, Q, D]."""
    weights = torch.unflatten(_over_slots(weights_BHQCL, v_BGKD), 1, (v_BGKD.shape[1], -1))
    return (weights @ v_BGKD[:, :, None]).flatten(1, 2)


def _weigh_found(weights_BHQML: Tensor, values_BHXMPD: Tensor) -> Tensor:
    """Weighted sum of retrieved values: [B, H, Q, D]."""
    weights = torch.unflatten(_over_slots(weights_BHQML, values_BHXMPD), 2, (values_BHXMPD.shape[2], -1))
    return (weights @ values_BHXMPD.flatten(3, 4)).flatten(2, 3)


def _over_slots(weights: Tensor, values: Tensor) -> Tensor:
    """[..., N, L] to [..., N P] in the format of the values: a landmark's value has no weight."""
    return F.pad(weights, (0, 1)).flatten(-2).to(values.dtype)
