"""The learning rate against the formula of Llama 2 and MEDITRON, and at its corners."""

import math

import pytest

from meditron.config.pretrain import OptimizerConfig
from pretrain.schedule import learning_rate


def rates(config: OptimizerConfig, steps: int) -> list[float]:
    return [learning_rate(step, steps, config) for step in range(steps)]


def test_cosine_with_warmup() -> None:
    config = OptimizerConfig(lr=3e-4, min_lr=3e-5, warmup_steps=10)
    found = rates(config, 101)
    assert found[:10] == pytest.approx([3e-5 * n for n in range(1, 11)])
    assert found[10] == 3e-4
    assert found[55] == pytest.approx(3e-5 + 2.7e-4 * 0.5 * (1 + math.cos(math.pi * 45 / 90)))
    assert found[-1] == pytest.approx(3e-5)


def test_linear_and_constant() -> None:
    linear = rates(OptimizerConfig(lr=1.0, min_lr=0.0, decay_style="linear"), 5)
    assert linear == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert rates(OptimizerConfig(lr=1.0, min_lr=0.0, decay_style="constant"), 5) == [1.0] * 5


def test_a_run_of_warmup_only_never_divides_by_zero() -> None:
    assert rates(OptimizerConfig(lr=1.0, min_lr=0.1, warmup_steps=2), 2) == [0.5, 1.0]
    assert rates(OptimizerConfig(lr=1.0, min_lr=0.1), 1) == [1.0]
