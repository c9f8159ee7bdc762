"""Which conversations make up a step, and how it is cut over passes and processes."""

import numpy as np
import pytest

from finetune.batches import IGNORE, DataOrder, answer_tokens, collate, passes_of_rank
from finetune.chat import Encoded

LENGTHS = np.random.default_rng(0).integers(5, 200, size=103).tolist()


def encoded(ids: list[int], answer: list[int]) -> Encoded:
    return Encoded(ids=np.array(ids, np.int32), answer=np.array(answer, np.bool_))


def test_every_epoch_has_every_conversation_once_in_another_order() -> None:
    order = DataOrder(LENGTHS, 8, seed=1)
    assert order.steps_per_epoch == 13
    epochs = [np.concatenate([order.step(e * 13 + i) for i in range(13)]) for e in range(2)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(103))
    assert list(epochs[0]) != list(epochs[1])
    again = DataOrder(LENGTHS, 8, seed=1)
    assert list(again.step(20)) == list(order.step(20))  # without having been through the steps before


def test_lengths_in_a_step_are_alike() -> None:
    order = DataOrder(LENGTHS, 8, seed=1)
    spreads = [np.ptp(np.array(LENGTHS)[order.step(i)]) for i in range(13)]
    assert np.median(spreads) < 40


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_all_processes_make_as_many_passes(world_size: int) -> None:
    batch = np.arange(7)
    shares = [passes_of_rank(batch, 2, rank, world_size) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    assert sorted(i for share in shares for piece in share for i in piece) == list(range(7))


def test_padding_and_labels() -> None:
    examples = [encoded([5, 6, 7, 8], [0, 0, 1, 1]), encoded([5, 9], [1, 1])]
    ids, labels = collate(examples)
    assert ids.shape == labels.shape == (2, 8)
    assert ids[0, :4].tolist() == [5, 6, 7, 8]
    assert labels[0].tolist() == [IGNORE, IGNORE, 7, 8, *[IGNORE] * 4]
    assert answer_tokens(examples) == 3 == int((labels[:, 1:] != IGNORE).sum())


def test_an_empty_pass_has_nothing_to_learn() -> None:
    ids, labels = collate([])
    assert ids.shape == (1, 8)
    assert (labels == IGNORE).all()
