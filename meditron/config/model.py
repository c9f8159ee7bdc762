"""Configuration of the model, its options, and its export."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class ModelConfig:
    """A base model plus zero or more options."""

    base: str = "tiny"
    """Hugging Face folder, hub name, or preset."""
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Registered option to its settings."""


@dataclass(kw_only=True)
class ExportConfig:
    """Checkpoint to Hugging Face folder."""

    run_dir: str | None = None
    """Pretraining run folder. Default: what `pretrain` writes."""
    output: str | None = None
    """Hugging Face folder. Default: `<work_dir>/model`."""
