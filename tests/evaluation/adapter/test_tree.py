"""The tree of shared beginnings, and the order in which it is computed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.adapter.tree import Extend, Ids, Node, Pack, Retract, Scheduler, build_tree

SEQUENCES = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=40), min_size=1, max_size=25)


def ids(*sequences: list[int]) -> list[Ids]:
    return [np.array(sequence, np.int32) for sequence in sequences]


def replayed(root: Node, budget: int, pass_tokens: int) -> tuple[dict[int, list[int]], int, int]:
    """Tokens that each node is computed after, itself included; tokens computed; passes."""
    cached: list[int] = []
    before: dict[int, list[int]] = {}
    computed = passes = 0
    new: list[int] = []
    for step in Scheduler(budget, pass_tokens).steps(root):
        match step:
            case Retract(tokens=tokens):
                del cached[-tokens:]
                continue
            case Extend(node=node, is_new=is_new):
                assert node.start == len(cached)
                cached += node.tokens.tolist()
                before[id(node)] = list(cached)
                computed += len(node.tokens)
                new += [id(node)] if is_new else []
            case Pack(segments=segments, size=size):
                assert size <= budget
                assert size == sum(len(segment.node.tokens) for segment in segments)
                paths: list[list[int]] = []
                for segment in segments:
                    above = cached if segment.parent is None else paths[segment.parent]
                    assert segment.node.start == len(above)
                    paths.append(above + segment.node.tokens.tolist())
                    before[id(segment.node)] = paths[-1]
                    new += [id(segment.node)] if segment.is_new else []
                computed += size
        passes += 1
    assert not cached
    assert len(new) == len(set(new))
    return before, computed, passes


def nodes_of(node: Node) -> list[Node]:
    return [node, *(below for child in node.children for below in nodes_of(child))]


@given(SEQUENCES, st.integers(8, 64), st.integers(1, 16))
def test_every_sequence_is_computed_after_its_own_beginning(
    sequences: list[list[int]], budget: int, pass_tokens: int
) -> None:
    root = build_tree(ids(*sequences))
    before, _, _ = replayed(root, budget, pass_tokens)
    distinct = {tuple(sequence[:length]) for sequence in sequences for length in range(1, len(sequence) + 1)}
    assert root.size == len(distinct)
    for node in nodes_of(root):
        for index in node.sequences if len(node.tokens) else ():
            end = node.start + len(node.tokens)
            assert before[id(node)] == sequences[index][:end]


def test_shared_beginnings_are_computed_once() -> None:
    instruction, questions = list(range(100)), [[200 + n, *range(50)] for n in range(10)]
    answers = [[300, 301], [300, 302], [303]]
    sequences = [instruction + question + answer for question in questions for answer in answers]
    root = build_tree(ids(*sequences))
    assert root.size == 100 + 10 * (51 + 4)
    before, computed, passes = replayed(root, budget=128, pass_tokens=16)
    assert computed == root.size  # the instruction is cached, each question packed with its answers
    assert passes == 1 + 5
    assert len(before) == len([node for node in nodes_of(root) if len(node.tokens)])


def test_a_short_beginning_is_packed_again_rather_than_cached() -> None:
    sequences = [[1, 2, 3] + [10 + n] * 60 for n in range(6)]
    root = build_tree(ids(*sequences))
    _, computed, passes = replayed(root, budget=128, pass_tokens=16)
    assert passes == 3
    assert computed == root.size + 2 * 3


def test_one_long_sequence_and_equal_ones() -> None:
    root = build_tree(ids([7] * 500, [7] * 500, [7] * 400))
    _, computed, _ = replayed(root, budget=128, pass_tokens=16)
    assert computed == root.size == 500


@pytest.mark.parametrize("sequences", [[[1]], [[1], [2]], [[1], [1, 2]]])
def test_the_smallest_trees(sequences: list[list[int]]) -> None:
    root = build_tree(ids(*sequences))
    before, _, _ = replayed(root, budget=16, pass_tokens=16)
    assert sorted(before.values()) == sorted(sequences)
