"""Sequences as a tree of shared beginnings, and the order in which its parts are computed.

Prompts of one benchmark begin alike (instruction, solved examples), and the answers to one question
share the whole prompt. Each shared part is computed once: long ones become a cached prefix, short ones
are packed, with all that follows them, into one forward pass whose attention mask is the tree.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]
PASS_TOKENS = 16
"""Tokens that are computed in the time that one more pass takes: a shared part is cached in a pass of its own
where computing it again in every pack would be more."""


@dataclass(eq=False, kw_only=True)
class Node:
    """A run of tokens that its children all follow."""

    tokens: Ids
    """Token ids, [tokens]; empty only in the root."""
    start: int
    """Position of the first token in the sequences."""
    sequences: list[int]
    """Indices of the sequences that go through this node."""
    children: "list[Node]" = field(default_factory=list)
    """Nodes that follow it."""
    size: int = 0
    """Tokens of this node and all below it."""


@dataclass(kw_only=True)
class Segment:
    """A node in a pack."""

    node: Node
    """The node."""
    parent: int | None
    """Index in the pack of the segment it follows; None where it follows the cached prefix."""
    is_new: bool
    """False where an earlier pack has computed the same node, for what follows it there."""


@dataclass(kw_only=True)
class Extend:
    """Compute a node and keep its keys and values: it is part of the prefix from now on."""

    node: Node
    """The node."""
    is_new: bool
    """False where an earlier pack has computed the same node."""


@dataclass(kw_only=True)
class Retract:
    """Take the last tokens off the cached prefix."""

    tokens: int
    """How many."""


@dataclass(kw_only=True)
class Pack:
    """Compute branches that follow the cached prefix, and keep nothing."""

    segments: list[Segment] = field(default_factory=list)
    """Nodes; each comes after the one it follows."""
    size: int = 0
    """Tokens of all segments."""


Step = Extend | Retract | Pack


def build_tree(sequences: Sequence[Ids]) -> Node:
    """The tree of all sequences; equal ones share their last node."""
    order = sorted(range(len(sequences)), key=lambda index: sequences[index].tolist())
    return _subtree(sequences, order, 0)


def _subtree(sequences: Sequence[Ids], order: list[int], start: int) -> Node:
    """Node of sorted sequences that agree up to `start`: the tokens they go on sharing, then branches."""
    first, last = sequences[order[0]], sequences[order[-1]]
    end = start + common_length(first[start:], last[start:])  # in sorted order the two ends agree least
    node = Node(tokens=first[start:end], start=start, sequences=order)
    for group in _by_token(sequences, order, end):
        node.children.append(_subtree(sequences, group, end))
    node.size = len(node.tokens) + sum(child.size for child in node.children)
    return node


def common_length(one: Ids, other: Ids) -> int:
    """Tokens that two sequences begin with alike."""
    length = min(len(one), len(other))
    differs = np.flatnonzero(one[:length] != other[:length])
    return int(differs[0]) if len(differs) else length


def _by_token(sequences: Sequence[Ids], order: list[int], position: int) -> Iterator[list[int]]:
    """Runs of sorted sequences with the same token at `position`; those that end before it have none."""
    group: list[int] = []
    token = -1
    for index in order:
        sequence = sequences[index]
        if len(sequence) <= position:
            continue
        if group and sequence[position] != token:
            yield group
            group = []
        token = sequence[position]
        group.append(index)
    if group:
        yield group


class Scheduler:
    """Orders the computation of a tree.

    Args:
        budget: most tokens of one pack; a longer node is cut by whoever computes it.
        pass_tokens: what one more pass costs, in tokens.
    """

    def __init__(self, budget: int, pass_tokens: int = PASS_TOKENS) -> None:
        self._budget, self._pass_tokens = budget, pass_tokens
        self._pack = Pack()
        self._places: dict[int, int] = {}  # id of a node to its place in the pack
        self._computed: set[int] = set()

    def steps(self, root: Node) -> Iterator[Step]:
        """What to compute, in order; every node is new in exactly one step."""
        yield from self._visit(root, ())
        yield from self._flush()

    def _visit(self, node: Node, chain: tuple[Node, ...]) -> Iterator[Step]:
        """Schedule a node that follows `chain`, which is neither cached nor, yet, in the pack."""
        above = sum(len(link.tokens) for link in chain)
        if above + node.size <= self._budget:
            yield from self._add(node, chain)
        elif node.children and self._is_cheaper_again(node):
            for child in node.children:
                yield from self._visit(child, (*chain, node) if len(node.tokens) else chain)
        else:
            yield from self._flush()
            for link in (*chain, node):
                yield Extend(node=link, is_new=id(link) not in self._computed)
                self._computed.add(id(link))
            for child in node.children:
                yield from self._visit(child, ())
            yield from self._flush()
            yield Retract(tokens=above + len(node.tokens))

    def _is_cheaper_again(self, node: Node) -> bool:
        """Whether computing a node in each pack that it takes is less work than a pass of its own."""
        further_packs = -(-node.size // self._budget) - 1
        return len(node.tokens) * further_packs < self._pass_tokens

    def _add(self, node: Node, chain: tuple[Node, ...]) -> Iterator[Step]:
        missing = sum(len(link.tokens) for link in chain if id(link) not in self._places)
        if self._pack.size + missing + node.size > self._budget:
            yield from self._flush()
        parent: int | None = None
        for link in chain:
            place = self._places.get(id(link))
            parent = self._put(link, parent) if place is None else place
        self._put_subtree(node, parent)

    def _put_subtree(self, node: Node, parent: int | None) -> None:
        place = self._put(node, parent) if len(node.tokens) else parent
        for child in node.children:
            self._put_subtree(child, place)

    def _put(self, node: Node, parent: int | None) -> int:
        place = len(self._pack.segments)
        self._pack.segments.append(Segment(node=node, parent=parent, is_new=id(node) not in self._computed))
        self._pack.size += len(node.tokens)
        self._computed.add(id(node))
        self._places[id(node)] = place
        return place

    def _flush(self) -> Iterator[Step]:
        if self._pack.segments:
            yield self._pack
        self._pack, self._places = Pack(), {}
