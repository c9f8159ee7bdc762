"""Random access to blocks against the paper's algorithm a query at a time; ragged rows; pools that grow."""

import itertools

import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, rotate_half

from meditron.models.options.landmark.memory import LandmarkMemory
from meditron.models.options.landmark.modeling_landmark import LandmarkLlamaConfig
from tests.meditron.models.options.landmark.conftest import LANDMARKS, SHAPE
from tests.meditron.models.options.landmark.oracle import oracle_retrieval

BLOCK, TOP_K, HEADS, GROUPS, WIDTH = 4, 2, 4, 2, 8
LENGTH = 45
CHUNKS = {
    "whole blocks": [(0, 12), (12, 24), (24, 36), (36, 45)],
    "one by one after a chunk": [(0, 20), *((n, n + 1) for n in range(20, 45))],
    "any lengths": [(0, 3), (3, 10), (10, 11), (11, 25), (25, 38), (38, 45)],
}


ROTARY = LlamaRotaryEmbedding(LandmarkLlamaConfig(**SHAPE, **LANDMARKS))
COS, SIN = (table[0] for table in ROTARY(torch.zeros(1), torch.arange(64)[None]))


def make_memory(retrieval: str, **settings: object) -> LandmarkMemory:
    return LandmarkMemory(ROTARY, BLOCK - 1, TOP_K, retrieval, **settings)


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    return x * COS[positions] + rotate_half(x) * SIN[positions]


def make(rows: int = 1, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(rows, n, LENGTH, WIDTH, generator=generator) for n in (HEADS, GROUPS, GROUPS))
    return 2 * q, k, v


def read(memory: LandmarkMemory, tensors: tuple[Tensor, Tensor, Tensor], chunks: list) -> Tensor:
    """The attention of every chunk after the other."""
    out = []
    for start, stop in chunks:
        memory.begin(torch.full((len(tensors[0]),), stop - start), tensors[0])
        out.append(memory.attend(0, *(x[:, :, start:stop] for x in tensors), 0.5))
        memory.end()
    return torch.cat(out, 2)


def next_of_rows(x: Tensor, done: Tensor, new: Tensor) -> Tensor:
    """The next `new` slots of each row, filled up to the longest."""
    parts = [x[row, :, done[row] : done[row] + count] for row, count in enumerate(new.tolist())]
    return torch.stack([torch.nn.functional.pad(x, (0, 0, 0, max(new) - x.shape[1])) for x in parts])


@pytest.mark.parametrize(
    ("retrieval", "name"),
    [
        ("head_token", "whole blocks"),
        ("head", "one by one after a chunk"),
        ("head_token", "any lengths"),
        ("head", "any lengths"),
        ("token", "any lengths"),
    ],
)
def test_it_equals_the_paper_a_query_at_a_time(retrieval: str, name: str) -> None:
    (q, k, v), chunks = make(), CHUNKS[name]
    found = read(make_memory(retrieval), (q, k, v), chunks)
    k, v = (x[0].repeat_interleave(HEADS // GROUPS, 0) for x in (k, v))
    expected = oracle_retrieval(q[0], k, v, chunks, BLOCK, TOP_K, retrieval, rotate, 0.5)
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("retrieval", ["head_token", "head", "token"])
def test_rows_of_other_lengths_do_not_matter(retrieval: str) -> None:
    tensors = make(rows=3)
    counts = torch.tensor([[14, 9, 0], [1, 13, 6], [17, 2, 8], [5, 1, 1]])
    together = make_memory(retrieval)
    done = torch.zeros(3, dtype=torch.long)
    for new in counts:
        together.begin(new, tensors[0])
        out = together.attend(0, *(next_of_rows(x, done, new) for x in tensors), 0.5)
        together.end()
        done += new
    alone = [make_memory(retrieval) for _ in range(3)]
    for row, memory in enumerate(alone):
        edges = [0, *counts[:, row].cumsum(0).tolist()]
        chunks = [(a, b) for a, b in itertools.pairwise(edges) if a != b]
        last = read(memory, tuple(x[row : row + 1] for x in tensors), chunks)[0, :, -int(counts[-1, row]) :]
        torch.testing.assert_close(out[row, :, : counts[-1, row]], last, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("offload", [False, True])
def test_pools_double_and_keep_what_they_have(offload: bool) -> None:
    tensors, chunks = make(rows=2), CHUNKS["one by one after a chunk"]
    small, large = (make_memory("head", capacity=size, offload=offload) for size in (1, 64))
    torch.testing.assert_close(read(small, tensors, chunks), read(large, tensors, chunks))
    assert small.capacity == 20  # from 1 to the 5 blocks of the first chunk, then 10, then 20
    assert small.blocks == [11, 11]
    assert small.tails == [1, 1]


def test_a_query_reads_landmarks_its_blocks_and_its_own() -> None:
    """At one token a pass the bytes read grow by a landmark each block, not by the block."""
    memory = make_memory("head")
    read(memory, make(), [(0, 20), *((n, n + 1) for n in range(20, 45))])
    number = 4  # bytes
    landmarks = GROUPS * 11 * WIDTH
    blocks = 2 * HEADS * TOP_K * BLOCK * WIDTH
    own = 2 * GROUPS * BLOCK * WIDTH
    assert memory.read_bytes == number * (landmarks + blocks + own)


def test_beams_take_their_rows_along() -> None:
    memory, tensors = make_memory("head"), make(rows=2)
    read(memory, tensors, [(0, 30)])
    memory.reorder_cache(torch.tensor([1, 1]))
    swapped = tuple(x[[1, 1]] for x in tensors)
    fresh = make_memory("head")
    read(fresh, swapped, [(0, 30)])
    after = [(30, 37)]
    torch.testing.assert_close(read(memory, swapped, after), read(fresh, swapped, after))
