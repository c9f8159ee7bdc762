"""The jobs of one submission: written down, looked at, and submitted again where they did not finish."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from meditron.errors import EnvironmentMissingError, InputError
from meditron.files import atomic_write_json
from meditron.progress import console

RECORD = "jobs.json"
WAITING = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED", "STAGE_OUT")
"""States of a job that is still SLURM's."""


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """One job of the record."""

    name: str
    """Unique in the submission."""
    stage: str
    """The verb."""
    after: tuple[str, ...]
    """Names of the jobs it waits for."""
    tasks: int | None = None
    """Tasks of its array; None for a single job."""
    id: str | None = None
    """SLURM's number of its last submission; None where it was not submitted."""

    def done_files(self, folder: Path) -> list[Path]:
        """What it leaves when it has succeeded: a file, or one for each task."""
        names = [self.name] if self.tasks is None else [f"{self.name}.{index}" for index in range(self.tasks)]
        return [folder / "done" / name for name in names]

    def missing_tasks(self, folder: Path) -> list[int]:
        """Indices of `done_files` that are not there."""
        return [index for index, path in enumerate(self.done_files(folder)) if not path.exists()]


def read_record(folder: Path) -> list[Submitted]:
    """The jobs of the last submission.

    Raises:
        InputError: there was none, or its record cannot be read.
    """
    path = folder / RECORD
    try:
        jobs = json.loads(path.read_text(encoding="utf-8"))["jobs"]
        return [Submitted(**{**job, "after": tuple(job["after"])}) for job in jobs]
    except FileNotFoundError:
        raise InputError(
            f"{path}: does not exist, so nothing was launched in this work_dir; check --config or --work_dir"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); remove it and launch again") from error


def write_record(folder: Path, jobs: Sequence[Submitted]) -> None:
    """Keep the jobs of a submission."""
    atomic_write_json(folder / RECORD, {"jobs": [asdict(job) for job in jobs]})


def in_queue(folder: Path) -> list[Submitted]:
    """Jobs of the last submission that SLURM still has; none where there was no submission."""
    if not (folder / RECORD).exists():
        return []
    return [job for job in read_record(folder) if set(states(job)) & set(WAITING)]


def require_idle(folder: Path) -> None:
    """Refuse a second submission beside one that is still at work.

    Raises:
        InputError: it is.
    """
    waiting = in_queue(folder)
    if waiting:
        names = ", ".join(f"{job.name} (job {job.id})" for job in waiting)
        raise InputError(
            f"{folder.parent}: {names} of its last launch are still in the queue; wait for them, or end them "
            "with `meditron launch cancel`"
        )


def submit(jobs: Sequence[Submitted], folder: Path) -> list[Submitted]:
    """Submit what has not succeeded, in order; an array only with the tasks that are missing.

    Raises:
        EnvironmentMissingError: sbatch refuses one; names those that are in the queue already.
    """
    ids: dict[str, str] = {}
    record = list(jobs)
    for index, job in enumerate(jobs):
        missing = job.missing_tasks(folder)
        if not missing:
            continue
        after = ":".join(ids[name] for name in job.after if name in ids)
        words = [*sbatch(after), *_array(job, missing), str(folder / f"{job.name}.sbatch")]
        ids[job.name] = _submit(words, ids)
        record[index] = Submitted(**{**asdict(job), "after": job.after, "id": ids[job.name]})
        write_record(folder, record)
        waits = f" after {', '.join(name for name in job.after if name in ids)}" if after else ""
        only = f", tasks {','.join(map(str, missing))}" if job.tasks and len(missing) < job.tasks else ""
        say(f"{job.name:<12} job {ids[job.name]}{only}{waits}")
    return record


def _array(job: Submitted, missing: Sequence[int]) -> list[str]:
    return [f"--array={','.join(map(str, missing))}"] if job.tasks and len(missing) < job.tasks else []


def sbatch(after: str) -> list[str]:
    """The words of a submission that waits for the jobs `after` (ids joined by colons; none if empty)."""
    waiting = [f"--dependency=afterok:{after}", "--kill-on-invalid-dep=yes"] if after else []
    return ["sbatch", "--parsable", *waiting]


def _submit(words: Sequence[str], queued: dict[str, str]) -> str:
    answer = subprocess.run(words, text=True, capture_output=True, check=False)
    if answer.returncode:
        reason = " ".join(answer.stderr.split()) or f"exit code {answer.returncode}"
        others = f"; cancel what is queued with: scancel {' '.join(queued.values())}" if queued else ""
        raise EnvironmentMissingError(f"{words[-1]}: sbatch refuses it ({reason}); correct launch.*{others}")
    return answer.stdout.strip().split(";")[0]


def check_scripts(jobs: Sequence[Submitted], folder: Path) -> None:
    """Have SLURM look at every script before any is submitted.

    Raises:
        EnvironmentMissingError: it refuses one.
    """
    for job in jobs:
        path = str(folder / f"{job.name}.sbatch")
        answer = subprocess.run(["sbatch", "--test-only", path], text=True, capture_output=True, check=False)
        if answer.returncode:
            reason = " ".join(answer.stderr.split())
            raise EnvironmentMissingError(
                f"{path}: sbatch refuses it ({reason}); correct launch.*, nothing was submitted"
            )


def details(job: Submitted) -> list[dict[str, str]]:
    """What `scontrol` knows of a job and of its array's tasks; empty for one that SLURM has forgotten.

    Raises:
        EnvironmentMissingError: there is no scontrol here.
    """
    if job.id is None:
        return []
    words = ["scontrol", "show", "job", "--oneliner", job.id]
    try:
        told = subprocess.run(words, text=True, capture_output=True, check=False).stdout
    except FileNotFoundError:
        raise EnvironmentMissingError(
            f"launch: job {job.id} is SLURM's, and scontrol is not on the PATH; ask on a login node of its "
            "cluster, or remove jobs.json from <work_dir>/launch"
        ) from None
    lines = [line for line in told.splitlines() if line.startswith("JobId=")]
    return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]


def states(job: Submitted) -> list[str]:
    """The states of a job and of the tasks of its array."""
    return [detail.get("JobState", "") for detail in details(job)]


def say(line: str) -> None:
    """A plain line for people."""
    console().print(line, markup=False, soft_wrap=True)


def chosen(jobs: Sequence[Submitted], name: str | None) -> list[Submitted]:
    """All jobs, or the one of that name.

    Raises:
        ConfigError: there is none.
    """
    if name is None:
        return list(jobs)
    from meditron.config.check import require_choice

    require_choice(name, [job.name for job in jobs], "launch.job")
    return [job for job in jobs if job.name == name]
