"""Attention in blocks: every token looks at its own beginning and nothing else."""

import numpy as np
import pytest
import torch

from evaluation.adapter.blocks import Block, to_blocks
from evaluation.adapter.tree import Ids, Node, Pack, Scheduler, Segment, build_tree

CPU = torch.device("cpu")


def looked_at(blocks: list[Block], total: int, prefix: int) -> torch.Tensor:
    """Who looks at whom according to the blocks, [T, P + T]."""
    looks = torch.zeros(total, prefix + total, dtype=torch.bool)
    for block in blocks:
        keys = torch.arange(prefix + total)[block.keys]
        queries = torch.arange(total)[block.queries]
        mask = torch.ones(len(queries), len(keys), dtype=torch.bool).tril()
        looks[queries[:, None], keys] = mask if block.mask is None else block.mask[0, 0]
    return looks


def paths(segments: list[Segment], prefix: int) -> torch.Tensor:
    """The same, token by token: the prefix, all of what a segment follows, and its own tokens so far."""
    starts = np.concatenate([[0], np.cumsum([len(segment.node.tokens) for segment in segments])]) + prefix
    looks = torch.zeros(int(starts[-1]) - prefix, int(starts[-1]), dtype=torch.bool)
    looks[:, :prefix] = True
    for place, segment in enumerate(segments):
        rows = range(int(starts[place]) - prefix, int(starts[place + 1]) - prefix)
        for row in rows:
            looks[row, starts[place] : row + prefix + 1] = True
        parent = segment.parent
        while parent is not None:
            looks[rows.start : rows.stop, starts[parent] : starts[parent + 1]] = True
            parent = segments[parent].parent
    return looks


def packs(sequences: list[Ids], budget: int) -> list[Pack]:
    return [step for step in Scheduler(budget).steps(build_tree(sequences)) if isinstance(step, Pack)]


def random_sequences(generator: np.random.Generator) -> list[Ids]:
    """Few kinds of tokens, so that beginnings are shared at all depths."""
    lengths = generator.integers(1, 70, 40)
    return [
        np.minimum.accumulate(generator.integers(1, 40, length))[::-1].astype(np.int32) for length in lengths
    ]


@pytest.mark.parametrize("call", [1, 500, 10**9])
@pytest.mark.parametrize("prefix", [0, 7])
def test_every_token_looks_at_its_own_beginning(
    monkeypatch: pytest.MonkeyPatch, call: int, prefix: int
) -> None:
    monkeypatch.setattr("evaluation.adapter.blocks.CPU_CALL", call)
    for pack in packs(random_sequences(np.random.default_rng(3)), budget=200):
        blocks = to_blocks(pack.segments, prefix, CPU)
        assert [block.queries.start for block in blocks[1:]] == [block.queries.stop for block in blocks[:-1]]
        assert torch.equal(looked_at(blocks, pack.size, prefix), paths(pack.segments, prefix))


def segment(length: int, parent: int | None) -> Segment:
    node = Node(tokens=np.zeros(length, np.int32), start=0, sequences=[])
    return Segment(node=node, parent=parent, is_new=True)


def test_questions_are_kept_apart_and_options_stay_with_their_question() -> None:
    segments = [segment(2, None), segment(36, 0), segment(3, 1), segment(2, 1), segment(34, 0), segment(4, 4)]
    first, second = to_blocks(segments, 0, CPU)
    assert (first.queries, second.queries) == (slice(0, 43), slice(43, 81))
    assert isinstance(second.keys, torch.Tensor)
    assert second.keys.tolist() == [0, 1, *range(43, 81)]


def test_a_long_sequence_is_cut_into_blocks_without_the_keys_of_later_ones() -> None:
    blocks = to_blocks([segment(100, None)], 0, CPU)
    assert [block.keys for block in blocks] == [slice(0, 45), slice(0, 90), slice(0, 100)]
    assert [block.mask is None for block in blocks] == [True, False, False]


def test_a_long_prefix_is_copied_less_often() -> None:
    (block,) = to_blocks([segment(100, None), segment(5, None)], 1000, CPU)
    assert block.keys == slice(0, 1105)
