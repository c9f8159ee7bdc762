"""Configuration of instruction tuning."""

from dataclasses import dataclass


@dataclass(kw_only=True)
class FinetuneConfig:
    """Instruction tuning of a Hugging Face folder."""

    model: str | None = None
    """Hugging Face folder to start from. Default: what `export` writes."""
    run_dir: str | None = None
    """Run folder. Default: `<work_dir>/finetune`."""
