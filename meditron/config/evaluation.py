"""Configuration of evaluation."""

from dataclasses import dataclass


@dataclass(kw_only=True)
class EvaluateConfig:
    """Benchmarks and perplexity."""

    output: str | None = None
    """Results folder. Default: `<work_dir>/results`."""
