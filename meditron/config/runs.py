"""Configuration of what looks at training runs: their comparison, their checkpoints."""

from dataclasses import dataclass, field

from meditron.config.check import require


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
