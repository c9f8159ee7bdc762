"""Which conversations make up a step, and how a step is cut into passes.

The conversations of a step are a pure function of (seed, data, global batch size, step): they do not
depend on the number of processes or on where a run was resumed. Tensor shapes: B conversations,
S tokens.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from finetune.chat import Encoded

IGNORE = -100
"""Label of a token that is not learnt."""
GROUPED_BATCHES = 50
"""Conversations are sorted by length within this many batches: little padding, still a random order."""
PAD_MULTIPLE = 8
"""Lengths are rounded up to a multiple of this, which GPUs like."""

Indices = npt.NDArray[np.int64]


class DataOrder:
    """The conversations of every step.

    Args:
        lengths: tokens of each conversation.
        global_batch_size: conversations of a step; the last step of an epoch may have fewer.
        seed: decides the order.
    """

    def __init__(self, lengths: Sequence[int], global_batch_size: int, seed: int) -> None:
        self._lengths = np.asarray(lengths, np.int64)
        self._size, self._seed = global_batch_size, seed
        self.steps_per_epoch = -(-len(self._lengths) // global_batch_size)
        self._epoch = lru_cache(maxsize=1)(self._make_epoch)

    def step(self, step: int) -> Indices:
        """Indices of the conversations of a step (counted from 0), the longest first."""
        epoch, index = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[index]

    def _make_epoch(self, epoch: int) -> list[Indices]:
        chooser = np.random.default_rng([self._seed, epoch])
        order = chooser.permutation(len(self._lengths))
        window = self._size * GROUPED_BATCHES
        batches = []
        for start in range(0, len(order), window):
            some = order[start : start + window]
            some = some[np.argsort(-self._lengths[some], kind="stable")]
            batches += [some[i : i + self._size] for i in range(0, len(some), self._size)]
        return [batches[i] for i in chooser.permutation(len(batches))]


def passes_of_rank(batch: Indices, micro_batch_size: int, rank: int, world_size: int) -> list[Indices]:
    """What one process does of a step: one entry a pass.

    Every process makes the same number of passes, as their gradients are joined; where there is not
    enough for all, the entry is empty. Neighbours in length run at the same time.
    """
    pieces = [batch[i : i + micro_batch_size] for i in range(0, len(batch), micro_batch_size)]
    rounds = -(-len(pieces) // world_size)
    pieces += [batch[:0]] * (rounds * world_size - len(pieces))
    return pieces[rank::world_size]


def collate(examples: Sequence[Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad conversations on the right to a common length.

    Returns:
        ids [B, S] and labels [B, S], int64; labels are IGNORE where there is nothing to learn. Without
        any example, one row of padding: a pass that adds nothing to loss and gradient.
    """
    longest = max((len(example.ids) for example in examples), default=1)
    shape = (max(len(examples), 1), -(-longest // PAD_MULTIPLE) * PAD_MULTIPLE)
    ids, labels = np.zeros(shape, np.int64), np.full(shape, IGNORE, np.int64)
    for row, example in enumerate(examples):
        end = len(example.ids)
        ids[row, :end] = example.ids
        labels[row, :end] = np.where(example.answer, example.ids, IGNORE)
    return torch.from_numpy(ids), torch.from_numpy(labels)


def answer_tokens(examples: Sequence[Encoded]) -> int:
    """Tokens that `collate`'s labels ask a model to predict from what is before them."""
    return sum(int(example.answer[1:].sum()) for example in examples)
