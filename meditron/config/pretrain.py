"""Configuration of pretraining."""

from dataclasses import dataclass


@dataclass(kw_only=True)
class PretrainConfig:
    """Shards to checkpoints."""

    shards: str | None = None
    """Shards folder. Default: what `tokenize` writes."""
    run_dir: str | None = None
    """Run folder. Default: `<work_dir>/pretrain`."""
