"""The learning rate of each step."""

import math

from meditron.config.pretrain import OptimizerConfig


def learning_rate(step: int, train_steps: int, config: OptimizerConfig) -> float:
    """Learning rate of a step, counted from 0.

    Linear over `warmup_steps` up to `lr`, then by `decay_style` down to `min_lr`, reached at the last step.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    share = min((step - config.warmup_steps) / max(train_steps - 1 - config.warmup_steps, 1), 1.0)
    height = {
        "cosine": 0.5 * (1 + math.cos(math.pi * share)),
        "linear": 1 - share,
        "constant": 1.0,
    }[config.decay_style]
    return config.min_lr + (config.lr - config.min_lr) * height
