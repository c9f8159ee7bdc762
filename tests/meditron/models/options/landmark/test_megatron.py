"""The attention core for Megatron: its axes, and what it refuses. Its curves are integration tests."""

from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch

from meditron.errors import ConfigError, EnvironmentMissingError
from meditron.models.options.landmark.attention import landmark_attention
from meditron.models.options.landmark.megatron import LandmarkCoreAttention


def settings(head_dim: int) -> SimpleNamespace:
    return SimpleNamespace(kv_channels=head_dim, context_parallel_size=1)


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_a_head_width_that_the_kernels_lack_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"landmark.kernel.*not of 24"):
        LandmarkCoreAttention(settings(24), block_size=15, kernel=True)


@pytest.mark.skipif(find_spec("triton") is not None, reason="triton is installed")
def test_kernels_without_triton_are_refused() -> None:
    with pytest.raises(EnvironmentMissingError, match="triton is not installed"):
        LandmarkCoreAttention(settings(16), block_size=15, kernel=True)


def test_axes_are_megatrons() -> None:
    core = LandmarkCoreAttention(settings(16), block_size=3)
    q, k, v = (torch.randn(10, 2, heads, 16) for heads in (4, 2, 2))
    expected = landmark_attention(*(x.permute(1, 2, 0, 3) for x in (q, k, v)), 3, 0.25)
    torch.testing.assert_close(core(q, k, v), expected.permute(2, 0, 1, 3).reshape(10, 2, 64))
