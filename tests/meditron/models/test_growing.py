"""Rows for new tokens: the mean of the known ones, on every rank that holds a part of them."""

import torch
from torch import Tensor

from meditron.models.growing import MeanRows

TABLE = torch.arange(14.0).view(7, 2)
MEAN = [4.0, 5.0]  # of the first five rows


class Stored:
    """Weights of one embedding with a number of rows."""

    def __init__(self, rows: int) -> None:
        self.table = TABLE[:rows]

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        assert stop <= len(self.table)
        return self.table[start:stop]

    def columns(self, name: str, start: int, stop: int) -> Tensor:
        return self.table[:, start:stop]


def check(weights: MeanRows, whole: Tensor) -> None:
    """The embedding is `whole`, however the ranks cut it."""
    name = "lm_head.weight"
    for size in (1, 2, 3, len(whole)):
        for start in range(0, len(whole), size):
            stop = min(start + size, len(whole))
            torch.testing.assert_close(weights.rows(name, start, stop), whole[start:stop])


def test_rows_that_the_base_lacks() -> None:
    weights = MeanRows(Stored(5), 5, 8)
    check(weights, torch.cat([TABLE[:5], torch.tensor([MEAN] * 3)]))
    torch.testing.assert_close(weights.rows("model.norm.weight", 0, 2), TABLE[:2])


def test_rows_that_the_base_never_used() -> None:
    """Those of the new tokens become the mean, the spare ones behind them stay."""
    check(MeanRows(Stored(7), 5, 6), torch.cat([TABLE[:5], torch.tensor([MEAN]), TABLE[6:]]))
