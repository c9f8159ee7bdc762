"""Why a job failed, in a paragraph: from SLURM's account of it and the end of its log."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_NEVER = "(?!)"
"""Matches nothing."""
_TAIL_BYTES = 200_000
_START = re.compile(r"^==> start \d+ of job .*\n", re.MULTILINE)
"""What the job's script writes first, each time that it starts."""


@dataclass(frozen=True, kw_only=True)
class Cause:
    """A known way to fail."""

    name: str
    """Short name."""
    state: str = _NEVER
    """Matches SLURM's state of the job."""
    log: str = _NEVER
    """Matches a part of the log."""
    advice: str
    """What it means, and what to do."""


CAUSES = (
    Cause(
        name="GPU out of memory",
        log=r"torch\.OutOfMemoryError|CUDA out of memory|CUDA error: out of memory",
        advice="A GPU had too little memory for weights, optimizer and activations together. Raise "
        "pretrain.parallel.tensor_model_parallel_size or pipeline_model_parallel_size, turn "
        "recomputation on, or lower pretrain.micro_batch_size; `meditron doctor --config ...` reckons "
        "the memory of a process beforehand.",
    ),
    Cause(
        name="out of memory",
        state="OUT_OF_MEMORY",
        log=r"oom[-_ ]kill|Out Of Memory|out of memory|Cannot allocate memory|DefaultCPUAllocator",
        advice="The node's main memory, or the share of it that the job had asked for, was used up, and the "
        "kernel killed a process. Raise launch.memory (`0` is all of a node), or lower the stage's "
        "`workers`.",
    ),
    Cause(
        name="node failure",
        state="NODE_FAIL|BOOT_FAIL",
        log=r"DUE TO NODE FAILURE|NODE_FAIL|Node failure|error: Node .* not responding",
        advice="A node stopped answering. With launch.requeue the job is queued again by itself and goes on "
        "from its newest checkpoint; `meditron launch resume` does it by hand. Nothing of the recipe is"
        " to be changed.",
    ),
    Cause(
        name="time limit",
        state="TIMEOUT|DEADLINE",
        log=r"DUE TO TIME LIMIT",
        advice="The job reached launch.time_limit before it could save. Raise launch.signal_seconds above "
        "the time of a step and a checkpoint together (SLURM looks at limits every 30 seconds), or raise "
        "launch.time_limit; `meditron launch resume` goes on from the newest checkpoint.",
    ),
    Cause(
        name="unfit nodes",
        log=r"meditron: the nodes are not fit",
        advice="The health check found nodes that are not fit, and no further start was allowed. The lines "
        "that begin with `health:` name them and say why; tell the cluster's operators, or exclude them"
        " with launch.partition or a reservation, then `meditron launch resume`.",
    ),
    Cause(
        name="no progress",
        log=r"starts in a row of \w+ brought no new checkpoint",
        advice="The job was started again and again without reaching a new checkpoint. Lower "
        "pretrain.checkpoint.interval so that one is saved within launch.time_limit, and look at the "
        "first error of each start in the log.",
    ),
    Cause(
        name="processes lost each other",
        log=r"Watchdog caught collective operation timeout|NCCL (?:WARN|error)|ncclSystemError|"
        r"ncclRemoteError|ncclInternalError|DistBackendError|"
        r"[Cc]onnection (?:closed by peer|reset by peer|refused)|"
        r"Timed out waiting",
        advice="A process waited for the others in a collective operation until its time was up, or lost its "
        "connection: usually because another process had ended (its error is above this one), otherwise"
        " because of the network. Look for the first error in the log; set NCCL_DEBUG: INFO and, where "
        "nodes have several networks, NCCL_SOCKET_IFNAME in launch.environment; raise "
        "pretrain.timeout_minutes if a step is that slow.",
    ),
    Cause(
        name="disk full",
        log=r"the disk is full|No space left on device|Disk quota exceeded",
        advice="The disk or the quota was used up. Free some space, or lower pretrain.checkpoint.keep, then "
        "`meditron launch resume`; what was finished is intact.",
    ),
    Cause(
        name="cancelled",
        state="CANCELLED",
        log=r"\*\*\* (?:JOB|STEP) \S+ ON \S+ CANCELLED AT \S+ \*\*\*",
        advice="The job was cancelled by a person, or because a job it waited for had failed. `meditron "
        "launch resume` submits it again.",
    ),
)
"""Known causes; the first that fits is told, so what causes others comes first."""


def explain(details: Mapping[str, str], log: str) -> str:
    """A paragraph on why a job failed.

    Args:
        details: fields of `scontrol show job`, at least JobState and ExitCode where known.
        log: the end of the job's output; what earlier starts of the job wrote is not looked at.
    """
    log = re.split(_START, log)[-1]
    cause = next((cause for cause in CAUSES if _fits(cause, details.get("JobState", ""), log)), None)
    if cause is not None:
        line = _line(cause.log, log)
        seen = f" Seen in the log: {line!r}." if line else ""
        return f"{cause.name}: {cause.advice}{seen}"
    said = [line for line in log.splitlines() if line.startswith("meditron: ")] or log.strip().splitlines()
    last = f"The log ends with: {said[-1].strip()!r}." if said else "It left no output."
    return f"failed (exit code {details.get('ExitCode', 'unknown')}). {last}"


def _fits(cause: Cause, state: str, log: str) -> bool:
    return re.fullmatch(cause.state, state) is not None or re.search(cause.log, log) is not None


def _line(pattern: str, log: str) -> str:
    """The first line that a pattern matches."""
    return next((line.strip()[:200] for line in log.splitlines() if re.search(pattern, line)), "")


def tail(path: Path) -> str:
    """The end of a log; empty where there is none."""
    try:
        with open(path, "rb") as handle:
            handle.seek(max(path.stat().st_size - _TAIL_BYTES, 0))
            return handle.read().decode(errors="replace")
    except OSError:
        return ""
