"""Random access to the blocks of an input of any length (arXiv 2305.16300, section 3.2 and appendix G).

The input is read in chunks. Keys and values of finished blocks are kept, keys before their rotation, for
their positions are chosen when they are read. A query scores the landmarks of all kept blocks, reads the
`top_k` best, and attends to them and to its own chunk by landmark attention. Positions are stingy: whatever
the length, all lie within the trained window.

Shapes: B rows, H query heads, G key/value heads, Q queries of a row, N kept blocks, M retrieved blocks,
C blocks of the chunk, P slots of a block, D head width, W positions of the window.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .attention import landmark_weights

_FIRST_CAPACITY = 64
RECENCY = 1e-5
"""Added to a block's score for each block before it. In the first layer all landmarks have the same key;
which of them is read shall not hang on rounding."""


@dataclass(kw_only=True)
class LayerBlocks:
    """What one layer keeps; shapes [B, G, N, P, D], and without the axes that do not apply."""

    keys: Tensor
    """Keys of finished blocks before rotation, in a pool with room for more."""
    values: Tensor
    """Their values."""
    landmarks: Tensor
    """Keys of their landmarks, rotated to the first block's last slot; always on the model's device."""
    tail_keys: Tensor
    """Keys of the unfinished block."""
    tail_values: Tensor
    """Its values."""


@dataclass(kw_only=True)
class _Chunk:
    """The new slots of a pass, the same for all layers."""

    counts: list[int]
    """New slots of each row."""
    padding: Tensor
    """Queries that are no slots of their row, bool [B, Q]."""
    local: Tensor
    """Place of each query, counted from the start of its unfinished block, [B, Q]."""
    first: Tensor
    """Position of that start, [B]."""
    blocks: Tensor
    """Kept blocks of each row before the pass, [B]."""
    cos: Tensor
    """Of the rotation at each position of the window, [W, D]."""
    sin: Tensor
    """The same."""


class LandmarkMemory:
    """The cache of a model for `generate` and for long inputs; rows may differ in length.

    Args:
        rotary: the model's rotary embedding.
        block_size: regular tokens of a block.
        top_k: blocks that are retrieved.
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
        self._chunk: _Chunk | None = None

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Regular tokens read so far."""
        return self.tokens

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """No limit, in the words of transformers."""
        return -1

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
        counts = counts_B.tolist()
        if not self.blocks:
            self.blocks, self.tails = [0] * len(counts), [0] * len(counts)
        device, block = like.device, self.block
        new_Q = torch.arange(max(counts), device=device)
        local_BQ = torch.tensor(self.tails, device=device)[:, None] + new_Q
        blocks_B = torch.tensor(self.blocks, device=device)
        last = int(local_BQ.max()) // block + 1 + min(max(self.blocks), self.top_k + 1)
        positions = torch.arange(max(last, self.top_k + 2) * block, device=device)[None]
        cos, sin = self.rotary(like, positions)
        self._chunk = _Chunk(
            counts=counts,
            padding=new_Q >= counts_B[:, None],
            local=local_BQ,
            first=blocks_B.clamp(max=self.top_k + 1) * block,
            blocks=blocks_B,
            cos=cos[0],
            sin=sin[0],
        )
        self.read_bytes = 0

    def end(self) -> None:
        """All layers have seen the pass: count what they kept."""
        assert self._chunk is not None
        for row, count in enumerate(self._chunk.counts):
            finished, self.tails[row] = divmod(self.tails[row] + count, self.block)
            self.blocks[row] += finished
        self._chunk = None

    def attend(self, number: int, q_BHQD: Tensor, k_BGQD: Tensor, v_BGQD: Tensor, scale: float) -> Tensor:
        """Attention of layer `number` for the new slots, which it keeps: [B, H, Q, D].

        Queries and keys come without their positions.
        """
        chunk = self._chunk
        assert chunk is not None, "begin() comes first"
        layer = self._layer(number, k_BGQD)
        keys, values = self._local(layer, k_BGQD, v_BGQD, chunk)
        q_BHQD = self._rotate(q_BHQD, (chunk.first[:, None] + chunk.local)[:, None])
        places = chunk.first[:, None] + torch.arange(keys.shape[2], device=keys.device)
        scores, earlier, allowed = self._local_scores(
            q_BHQD, self._rotate(keys, places[:, None]), chunk, scale
        )
        found = self._retrieve(layer, q_BHQD, scale) if max(self.blocks) else None
        if found is not None:
            scores = torch.cat([found.scores, scores], -2)
            earlier = torch.cat(
                [torch.ones_like(found.valid), earlier.expand(*found.valid.shape[:-1], -1)], -1
            )
            seen = found.valid[..., None].expand(*found.valid.shape, self.block - 1)
            allowed = torch.cat([seen, allowed.expand(*seen.shape[:-2], *allowed.shape[-2:])], -2)
        weights, _ = landmark_weights(scores, earlier, allowed)
        retrieved = weights.shape[-2] - keys.shape[2] // self.block
        out = self._weigh_local(weights[..., retrieved:, :], values)
        if found is not None:
            out = out + _read(weights[..., :retrieved, :], found.values[..., :-1, :])
        self._keep(layer, keys, values, chunk)
        return out

    # -- the chunk itself

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

    def _local(
        self, layer: LayerBlocks, k_BGQD: Tensor, v_BGQD: Tensor, chunk: _Chunk
    ) -> tuple[Tensor, Tensor]:
        """Keys and values from the start of each row's unfinished block, in whole blocks."""
        slots = -(-(max(self.tails) + k_BGQD.shape[2]) // self.block) * self.block
        place = chunk.local[:, None, :, None].expand_as(k_BGQD)

        def joined(tail_BGPD: Tensor, new_BGQD: Tensor) -> Tensor:
            return F.pad(tail_BGPD, (0, 0, 0, slots - self.block)).scatter(2, place, new_BGQD)

        return joined(layer.tail_keys, k_BGQD), joined(layer.tail_values, v_BGQD)

    def _local_scores(
        self, q_BHQD: Tensor, k_BGKD: Tensor, chunk: _Chunk, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scores [B, H, Q, C, P], earlier blocks [B, 1, Q, C], visible regular tokens [B, 1, Q, C, L]."""
        heads, groups = q_BHQD.shape[1], k_BGKD.shape[1]
        grouped = torch.unflatten(q_BHQD, 1, (groups, -1))
        scores = (grouped @ k_BGKD[:, :, None].transpose(-1, -2)).flatten(1, 2).float() * scale
        assert scores.shape[1] == heads
        queries = chunk.local[:, None, :, None]
        slots = torch.arange(k_BGKD.shape[2], device=k_BGKD.device).view(-1, self.block)
        self.read_bytes += 2 * k_BGKD.numel() * k_BGKD.element_size()
        earlier = slots[:, 0] // self.block < queries // self.block
        by_block = torch.unflatten(scores, -1, (-1, self.block))
        return by_block, earlier, slots[:, :-1] <= queries[..., None]

    def _weigh_local(self, weights_BHQCL: Tensor, v_BGKD: Tensor) -> Tensor:
        values = torch.unflatten(v_BGKD, 2, (-1, self.block))[:, :, :, :-1].flatten(2, 3)
        weights = torch.unflatten(weights_BHQCL.flatten(-2).to(values.dtype), 1, (v_BGKD.shape[1], -1))
        return (weights @ values[:, :, None]).flatten(1, 2)

    def _keep(self, layer: LayerBlocks, keys_BGKD: Tensor, values_BGKD: Tensor, chunk: _Chunk) -> None:
        """Finished blocks go to the pools, what is left over is the unfinished block."""
        last = [(tail + new) // self.block for tail, new in zip(self.tails, chunk.counts, strict=True)]
        self._grow(layer, max(old + new for old, new in zip(self.blocks, last, strict=True)))
        keys, values = (
            torch.unflatten(F.pad(x, (0, 0, 0, self.block)), 2, (-1, self.block))
            for x in (keys_BGKD, values_BGKD)
        )
        for row, finished in enumerate(last):
            kept = slice(self.blocks[row], self.blocks[row] + finished)
            if finished:
                layer.keys[row, :, kept] = keys[row, :, :finished].to(layer.keys.device)
                layer.values[row, :, kept] = values[row, :, :finished].to(layer.keys.device)
                place = torch.tensor(self.block - 1, device=keys.device)
                layer.landmarks[row, :, kept] = self._rotate(keys[row, :, :finished, -1], place)
            layer.tail_keys[row] = keys[row, :, finished]
            layer.tail_values[row] = values[row, :, finished]

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

    # -- the kept blocks

    def _retrieve(self, layer: LayerBlocks, q_BHQD: Tensor, scale: float) -> "_Found":
        """The best blocks of each query, in their order, with their scores.

        The blocks of the `top_k` most recent keep their distances; all older ones stand to the left of
        them, with one empty slot between, so that old and recent are told apart.
        """
        assert self._chunk is not None
        blocks_B, count = self._chunk.blocks, min(self.top_k, max(self.blocks))
        ranking = self._rank(layer, q_BHQD, scale)
        chosen = ranking.topk(count, -1).indices.sort(-1).values
        # A row with fewer blocks than others ranks those that it lacks last, which sorting puts at the end.
        limit = blocks_B[:, None, None, None]
        valid_BHXM = chosen < limit
        recent = (chosen >= limit - count) & (limit > self.top_k)
        slot = torch.arange(count, device=chosen.device) + recent
        keys_BHXMPD = _gather(layer.keys, chosen, q_BHQD)
        values_BHXMPD = _gather(layer.values, chosen, q_BHQD)
        self.read_bytes += 2 * keys_BHXMPD.numel() * keys_BHXMPD.element_size()
        places = slot[..., None] * self.block + torch.arange(self.block, device=slot.device)
        keys_BHXMPD = self._rotate(keys_BHXMPD, places)
        if keys_BHXMPD.shape[2] == 1:
            flat = keys_BHXMPD[:, :, 0].flatten(2, 3)
            scores = q_BHQD @ flat.transpose(-1, -2)
        else:
            scores = (keys_BHXMPD.flatten(3, 4) @ q_BHQD[..., None])[..., 0]
        scores = torch.unflatten(scores.float().mul(scale), -1, (count, self.block))
        return _Found(scores, valid_BHXM.expand(scores.shape[:-1]), values_BHXMPD)

    def _rank(self, layer: LayerBlocks, q_BHQD: Tensor, scale: float) -> Tensor:
        """How good each kept block is: [B, H or 1, Q or 1, N]."""
        assert self._chunk is not None
        blocks_B, count = self._chunk.blocks, max(self.blocks)
        landmarks = layer.landmarks[:, :, :count]
        self.read_bytes += landmarks.numel() * landmarks.element_size()
        grouped = torch.unflatten(q_BHQD, 1, (landmarks.shape[1], -1))
        scores = (grouped @ landmarks[:, :, None].transpose(-1, -2)).flatten(1, 2).float()
        number_N = torch.arange(count, device=scores.device)
        scores = self._with_recent(scores, landmarks, grouped).mul_(scale).add_(number_N * RECENCY)
        absent = number_N >= blocks_B[:, None, None, None]
        scores = scores.masked_fill(absent, -torch.inf)
        if self.retrieval == "head_token":
            return scores
        shares = torch.where(absent, -1.0, scores.softmax(-1))
        if self.retrieval == "token":
            return shares.amax(1, keepdim=True)
        return shares.masked_fill(self._chunk.padding[:, None, :, None], -1.0).amax(2, keepdim=True)

    def _with_recent(self, scores: Tensor, landmarks_BGND: Tensor, grouped: Tensor) -> Tensor:
        """Scores with the landmarks of the most recent blocks in their own positions.

        Kept landmarks are rotated as if in the first block; turning one on by whole blocks is one more
        rotation. All older ones stay in the first block.
        """
        assert self._chunk is not None
        blocks_B = self._chunk.blocks
        count = min(self.top_k, landmarks_BGND.shape[2])
        recent_BM = (blocks_B[:, None] - count + torch.arange(count, device=scores.device)).clamp(min=0)
        skipped = (blocks_B > self.top_k).long()[:, None]
        older_B1 = (blocks_B - self.top_k).clamp(min=0)[:, None]
        slot_BM = recent_BM - older_B1 + skipped
        index = recent_BM[:, None, :, None].expand(-1, landmarks_BGND.shape[1], -1, landmarks_BGND.shape[3])
        turned = self._rotate(landmarks_BGND.gather(2, index), slot_BM[:, None] * self.block)
        new = (grouped @ turned[:, :, None].transpose(-1, -2)).flatten(1, 2).float()
        place = recent_BM[:, None, None].expand_as(new)
        return scores.scatter(-1, place, new)

    def _rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotary embedding in Llama's layout: [..., D] at positions that broadcast to [...]."""
        assert self._chunk is not None
        cos, sin = self._chunk.cos[positions], self._chunk.sin[positions]
        half = x.shape[-1] // 2
        turned = torch.cat([-x[..., half:], x[..., :half]], -1)
        return x * cos + turned * sin


@dataclass
class _Found:
    scores: Tensor
    """[B, H, Q, M, P]."""
    valid: Tensor
    """Which of them exist: bool [B, H, Q, M]."""
    values: Tensor
    """[B, H, Q or 1, M, P, D]."""


def _gather(pool_BGNPD: Tensor, chosen: Tensor, like_BHQD: Tensor) -> Tensor:
    """Blocks `chosen` ([B, H or 1, X, M]) of each query head's group: [B, H, X, M, P, D]."""
    batch, heads = like_BHQD.shape[:2]
    device, groups = pool_BGNPD.device, pool_BGNPD.shape[1]
    rows = torch.arange(batch, device=device)[:, None, None, None]
    group = torch.arange(heads, device=device)[None, :, None, None] // (heads // groups)
    return pool_BGNPD[rows, group, chosen.to(device)].to(like_BHQD.device)


def _read(weights_BHQML: Tensor, values_BHXMLD: Tensor) -> Tensor:
    """Weighted sum of retrieved values: [B, H, Q, D]."""
    weights, values = weights_BHQML.flatten(-2).to(values_BHXMLD.dtype), values_BHXMLD.flatten(3, 4)
    if values.shape[2] == 1:
        return weights @ values[:, :, 0]
    return (weights[..., None, :] @ values)[..., 0, :]
