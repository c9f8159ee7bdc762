"""Configuration of running, launching and reporting."""

from dataclasses import dataclass


@dataclass(kw_only=True)
class LaunchConfig:
    """The SLURM job."""

    dry_run: bool = False
    """Print the exact script instead of submitting it."""


@dataclass(kw_only=True)
class ReportConfig:
    """The HTML report."""

    output: str | None = None
    """HTML file. Default: `<work_dir>/report.html`."""


@dataclass(kw_only=True)
class RunConfig:
    """Which stages `meditron run` goes through."""

    from_stage: str | None = None
    """Start at this stage. Default: the first unfinished one."""
