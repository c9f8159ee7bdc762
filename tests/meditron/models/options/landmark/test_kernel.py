"""The Triton kernels, under Triton's interpreter or on a GPU, against the tiled attention."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from meditron.models.options.landmark.attention import landmark_attention
from tests.meditron.models.options.landmark.test_attention import with_gradients

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
SHAPES = [(64, 4, 2, 15), (41, 2, 2, 15), (7, 2, 1, 15), (64, 2, 1, 31)]
"""Slots, query heads, key heads, block size."""


def check(slots: int, heads: int, groups: int, block_size: int) -> None:
    from meditron.models.options.landmark.kernel import kernel_attention

    generator = torch.Generator().manual_seed(slots)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tensors = [
        torch.randn(2, n, slots, 16, generator=generator).to(device).requires_grad_()
        for n in (heads, groups, groups)
    ]
    expected = with_gradients(landmark_attention, tensors, block_size, 0.25)
    found = with_gradients(kernel_attention, tensors, block_size, 0.25)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_values_and_gradients_are_those_of_the_tiled_form() -> None:
    """In a process of its own: Triton reads whether to interpret when it is first imported."""
    interpret = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    module = "tests.meditron.models.options.landmark.test_kernel"
    result = subprocess.run(
        [sys.executable, "-m", module],
        env={**os.environ, **interpret},
        cwd=Path(__file__).resolve().parents[5],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [str(shape[0]) for shape in SHAPES]


@pytest.mark.parametrize(
    ("block_size", "head_dim", "can"), [(63, 64, True), (50, 64, False), (63, 256, False)]
)
def test_other_sizes_are_left_to_the_tiled_form(block_size: int, head_dim: int, can: bool) -> None:
    from meditron.models.options.landmark.kernel import can_run

    assert can_run(block_size, head_dim) is can


if __name__ == "__main__":
    for shape in SHAPES:
        check(*shape)
        print(shape[0])
