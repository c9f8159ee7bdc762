"""The learning rate of each step."""

import math

from meditron.config.pretrain import OptimizerConfig


def learning_rate(step: int, train_steps: int, config: OptimizerConfig) -> float:
    """Learning rate of a step, counted from 0.

    Linear over `warmup_steps` up to `lr`, then by `decay_style` down to `min_lr`, reached at the schedule's
    last step.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    last = (config.schedule_steps or train_steps) - 1
    start = config.warmup_steps
    if config.decay_style == "wsd":
        start = max(start, last - (config.decay_steps or max((last + 1) // 10, 1)))
    share = min(max(step - start, 0) / max(last - start, 1), 1.0)
    height = {
        "cosine": 0.5 * (1 + math.cos(math.pi * share)),
        "linear": 1 - share,
        "wsd": 1 - share,
        "constant": 1.0,
    }[config.decay_style]
    return config.min_lr + (config.lr - config.min_lr) * height
