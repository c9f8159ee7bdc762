"""The tiled attention against the literal loops: weights, gradients, formats, and inputs that hurt."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from meditron.models.options.landmark.attention import landmark_attention, landmark_weights
from tests.meditron.models.options.landmark.oracle import oracle_attention


def make(seed: int, heads: int, groups: int, slots: int, width: int = 4, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, n, slots, width) for n in (heads, groups, groups)]
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    return [(x * scale).requires_grad_() if n < 2 else x.requires_grad_() for n, x in enumerate(tensors)]


def with_gradients(function, tensors: list[Tensor], *settings) -> list[Tensor]:
    out = function(*tensors, *settings)
    weight = torch.linspace(-1, 1, out.numel()).view_as(out)
    return [out, *torch.autograd.grad((out * weight).sum(), tensors)]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    block_size=st.integers(1, 5),
    slots=st.integers(1, 17),
    groups=st.integers(1, 2),
    ratio=st.integers(1, 3),
    tile=st.integers(1, 20),
)
def test_it_equals_the_loops(
    seed: int, block_size: int, slots: int, groups: int, ratio: int, tile: int
) -> None:
    tensors = make(seed, groups * ratio, groups, slots)
    expected = with_gradients(oracle_attention, tensors, block_size, 0.5)
    found = with_gradients(landmark_attention, tensors, block_size, 0.5, tile)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_the_gradient_is_that_of_the_function() -> None:
    tensors = [x.detach().double().requires_grad_() for x in make(0, 2, 1, 9, width=2)]
    # The softmax is in fp32, so steps are larger and the comparison coarser than gradcheck's default.
    assert torch.autograd.gradcheck(
        lambda q, k, v: landmark_attention(q, k, v, 2, 0.7, 3), tensors, eps=1e-2, atol=2e-3, rtol=2e-2
    )


def test_large_scores_stay_finite() -> None:
    tensors = make(1, 2, 2, 24, scale=100.0)
    for tensor in with_gradients(landmark_attention, tensors, 5, 1.0):
        assert torch.isfinite(tensor).all()


def test_bfloat16_is_near_and_keeps_its_format() -> None:
    tensors = [x.detach().bfloat16() for x in make(2, 4, 2, 30, width=16)]
    found = landmark_attention(*tensors, 5, 0.25)
    assert found.dtype == torch.bfloat16
    expected = landmark_attention(*[x.float() for x in tensors], 5, 0.25)
    torch.testing.assert_close(found.float(), expected, atol=0.03, rtol=0.03)


def test_values_and_own_landmark_are_not_read() -> None:
    q, k, v = (x.detach() for x in make(3, 1, 1, 12))
    before = landmark_attention(q, k, v, 3, 1.0)
    v[:, :, 3::4] = 1e6
    k[:, :, 11] = 7.0  # the landmark of the last block gates nothing before a later block asks
    torch.testing.assert_close(landmark_attention(q, k, v, 3, 1.0), before)


def test_weights_sum_to_one() -> None:
    scores = torch.randn(3, 4, 5)
    earlier = torch.tensor([True, True, True, False])
    weights, inner = landmark_weights(scores, earlier, torch.ones(4, 4, dtype=torch.bool))
    torch.testing.assert_close(weights.sum((-1, -2)), torch.ones(3))
    torch.testing.assert_close(inner.sum(-1), torch.ones(3, 4))


@pytest.mark.parametrize("slots", [256, 1024])
def test_memory_grows_with_the_length_and_not_with_its_square(slots: int) -> None:
    """What autograd keeps for the gradient: queries, keys and values."""
    tensors = make(4, 1, 1, slots)
    kept = 0

    def count(x: Tensor) -> Tensor:
        nonlocal kept
        kept += x.numel()
        return x

    with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
        landmark_attention(*tensors, 7, 1.0)
    assert kept == 3 * 2 * slots * 4


def grouped_by_buckets(scores_T: Tensor, groups_T: Tensor, count: int) -> Tensor:
    """Softmax within the group of each key, by scattering into buckets, as the authors' eager code does."""
    largest = torch.full((count,), -torch.inf).scatter_reduce(0, groups_T, scores_T, "amax")
    exp = (scores_T - largest[groups_T]).exp()
    return exp / torch.zeros(count).scatter_add(0, groups_T, exp)[groups_T]


def authors_weights(scores_TT: Tensor, block: int) -> Tensor:
    """The published eager formulation: landmarks mask each other's groups by their running count.

    Bucket 0 to n - 1: the tokens of a section; the last: the query's own section and earlier landmarks.
    """
    length = len(scores_TT)
    is_landmark = torch.arange(length) % block == block - 1
    weights = torch.zeros_like(scores_TT)
    for query in range(length):
        visible = torch.arange(length) <= query
        section = is_landmark.long().cumsum(0) - is_landmark.long()
        last = section == section[query]
        visible &= ~(last & is_landmark)
        count = int(section.max()) + 2
        groups = torch.where(last | is_landmark, count - 1, section)[visible]
        share = grouped_by_buckets(scores_TT[query, visible], groups, count)
        row = torch.zeros(length).masked_scatter(visible, share)
        gate = torch.ones(length)
        for number in range(int(section[query])):
            gate[(section == number) & ~is_landmark] = row[is_landmark & (section == number)]
        weights[query] = torch.where(is_landmark, 0.0, row * gate)
    return weights


def authors_attention(q: Tensor, k: Tensor, v: Tensor, block_size: int, scale: float) -> Tensor:
    rows = [
        torch.stack(
            [
                authors_weights(q[b, h] @ k[b, h].T * scale, block_size + 1) @ v[b, h]
                for h in range(q.shape[1])
            ]
        )
        for b in range(q.shape[0])
    ]
    return torch.stack(rows)


@pytest.mark.parametrize(("slots", "block_size"), [(17, 3), (24, 5), (9, 1)])
def test_it_equals_the_authors_buckets(slots: int, block_size: int) -> None:
    tensors = make(5, 2, 2, slots)
    expected = with_gradients(authors_attention, tensors, block_size, 0.5)
    found = with_gradients(landmark_attention, tensors, block_size, 0.5)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
