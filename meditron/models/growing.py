"""Embedding rows for tokens that a base model did not have."""

from typing import Any

import torch
from torch import Tensor

from meditron.models.safetensors_folder import WeightSource

EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")
_CHUNK_ROWS = 8192


class MeanRows:
    """Weights whose embeddings have, for new tokens, the mean of the rows before them.

    A new token then begins as an average one: its logit is no outlier, and the loss of the others hardly
    changes (J. Hewitt, "Initializing New Word Embeddings for Pretrained Language Models", 2021).

    Args:
        weights: of the base model.
        first: first row of the new tokens.
        stop: the row after their last one; the base model may lack any of these rows.
    """

    def __init__(self, weights: WeightSource, first: int, stop: int) -> None:
        self._weights, self._first, self._stop = weights, first, stop

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` of a tensor (its first axis)."""
        if name not in EMBEDDINGS or stop <= self._first or start >= self._stop:
            return self._weights.rows(name, start, stop)
        before = self._weights.rows(name, min(start, self._first), self._first)
        new = min(stop, self._stop) - max(start, self._first)
        means = self._mean(name).to(before.dtype).expand(new, -1)
        after = [self._weights.rows(name, self._stop, stop)] if stop > self._stop else []
        return torch.cat([before, means, *after])

    def columns(self, name: str, start: int, stop: int) -> Tensor:
        """Columns `start` to `stop` of a matrix."""
        return self._weights.columns(name, start, stop)

    def _mean(self, name: str) -> Tensor:
        """In chunks and in fp64: every rank gets the same, and the whole embedding is never held."""
        total: Any = 0
        for start in range(0, self._first, _CHUNK_ROWS):
            stop = min(start + _CHUNK_ROWS, self._first)
            total = total + self._weights.rows(name, start, stop).double().sum(0)
        mean: Tensor = total / self._first
        return mean
