"""The learning rate against the formula of Llama 2 and MEDITRON, and at its corners."""

import math

import pytest

from meditron.config.pretrain import OptimizerConfig, PretrainConfig
from meditron.errors import ConfigError
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


def test_warmup_stable_decay() -> None:
    config = OptimizerConfig(lr=1.0, min_lr=0.2, warmup_steps=2, decay_style="wsd", decay_steps=4)
    assert rates(config, 12) == pytest.approx([0.5, *[1.0] * 7, 0.8, 0.6, 0.4, 0.2])
    tenth = OptimizerConfig(lr=1.0, min_lr=0.0, decay_style="wsd")
    assert rates(tenth, 100)[89:91] == pytest.approx([1.0, 0.9])


def test_a_longer_schedule_ends_on_the_way() -> None:
    """MEDITRON-7B: a cosine of two epochs, ended after one, at about half of the peak."""
    config = OptimizerConfig(lr=3e-4, min_lr=3e-5, schedule_steps=200)
    whole = [learning_rate(step, 200, config) for step in range(200)]
    assert rates(config, 100) == whole[:100]
    assert whole[99] == pytest.approx(1.6e-4, abs=1e-5)


def test_what_contradicts_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"decay_steps: 4 needs decay_style wsd"):
        OptimizerConfig(decay_steps=4)
    with pytest.raises(ConfigError, match=r"schedule_steps: 5 is less than pretrain.train_steps \(10\)"):
        PretrainConfig(train_steps=10, optimizer=OptimizerConfig(schedule_steps=5))
