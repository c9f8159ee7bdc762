"""Configuration of what looks at training runs: their layout, their comparison, their checkpoints."""

from dataclasses import dataclass, field
from typing import Literal

from meditron.config.check import require, suggest
from meditron.devices import DEVICES


@dataclass(kw_only=True)
class CompareConfig:
    """Two training runs side by side."""

    runs: list[str] = field(default_factory=list)
    """Two run folders; also as words, `meditron compare A B`."""
    tolerance: float = 0.0
    """Largest difference of two losses, in nats, that still counts as equal. 0: the same bits."""

    def __post_init__(self) -> None:
        require(self.tolerance >= 0, "compare.tolerance", self.tolerance, "is negative")


@dataclass(kw_only=True)
class CheckpointsConfig:
    """Checkpoints that lie on a disk."""

    paths: list[str] = field(default_factory=list)
    """Run folders, or single checkpoints; also as words, `meditron checkpoint list A B`. Default: the run
    folder of the recipe."""
    to: Literal["hf", "megatron", "deepspeed"] | None = None
    """What `meditron checkpoint convert` makes of a checkpoint, or of the newest one of a run: a Hugging Face
    folder of the weights alone (as `meditron export` does), or the checkpoint, optimizer included, in the
    form of an engine."""
    output: str | None = None
    """The folder that it writes, which must not exist."""


@dataclass(kw_only=True)
class DoctorConfig:
    """The GPUs that `meditron doctor` reckons with."""

    gpus: int | None = None
    """Their number, for a proposal of layouts. Default: no proposal."""
    gpu: str | None = None
    """Their kind: a100-40gb, a100-80gb, h100, h200, gh200, b200, l40s or rtx-4090. Default: none; the time of
    the recipe's own layout then needs `pretrain.peak_flops`."""

    def __post_init__(self) -> None:
        require(self.gpus is None or self.gpus >= 1, "doctor.gpus", self.gpus, "must be at least 1")
        if self.gpu is not None:
            known = self.gpu in DEVICES
            require(known, "doctor.gpu", self.gpu, f"is not known{suggest(self.gpu, DEVICES)}")
        else:
            rule = f"needs doctor.gpu, their kind: one of {', '.join(DEVICES)}"
            require(self.gpus is None, "doctor.gpus", self.gpus, rule)
