"""The cross-entropy that writes over its logits, against torch's own."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from meditron.models.megatron import cross_entropy
from meditron.models.megatron.cross_entropy import token_cross_entropy


@given(st.integers(1, 40), st.integers(2, 50), st.integers(0, 9), st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_values_and_gradients_are_those_of_torch(
    tokens: int, vocab_size: int, padding: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(tokens, vocab_size + padding, generator=generator) * 8
    labels = torch.randint(vocab_size, (tokens,), generator=generator)
    weights = torch.rand(tokens, generator=generator)
    expected_input = raw.clone().requires_grad_()
    expected = F.cross_entropy(expected_input[:, :vocab_size], labels, reduction="none")
    (expected * weights).sum().backward()
    leaf = raw.clone().requires_grad_()
    found = token_cross_entropy(leaf * 1, labels, vocab_size)
    (found * weights).sum().backward()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(leaf.grad, expected_input.grad, atol=1e-5, rtol=1e-5)


def test_chunks_and_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computed in fp32 from bf16 logits, a few rows at a time."""
    monkeypatch.setattr(cross_entropy, "_CHUNK_ELEMENTS", 70)
    torch.manual_seed(0)
    raw = (torch.randn(25, 33) * 4).bfloat16()
    labels = torch.randint(33, (25,))
    exact = raw.float().requires_grad_()
    expected = F.cross_entropy(exact, labels, reduction="none")
    expected.sum().backward()
    leaf = raw.clone().requires_grad_()
    found = token_cross_entropy(leaf * 1, labels, 33)
    assert found.dtype == torch.float32
    found.sum().backward()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(leaf.grad, exact.grad.bfloat16())
