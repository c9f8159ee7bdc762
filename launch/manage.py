"""`meditron launch status|logs|cancel|resume`: the jobs of the last launch of a work folder."""

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from launch import local, queue
from launch.explain import explain, tail
from launch.queue import WAITING, Submitted, say
from launch.script import launch_folder
from launch.slurm import require_slurm
from meditron.config import Recipe
from meditron.config.loading import load_recipe
from meditron.errors import InputError
from meditron.progress import console

_LINES = 40


def status(recipe: Recipe) -> None:
    """Print how each job stands, and why it failed if it did."""
    folder = launch_folder(recipe)
    if local.is_last(folder):
        _print_table(("stage", "state", "seconds"), local.status(_launched(folder)))
        return
    jobs = queue.chosen(queue.read_record(folder), recipe.launch.job)
    rows = [row for job in jobs for row in _rows(job, folder)]
    _print_table(("job", "number", "state", "nodes", "starts", "run time"), rows)
    for job in jobs:
        for reason in _failures(job, folder):
            say(reason)


def _rows(job: Submitted, folder: Path) -> Iterator[tuple[str, ...]]:
    """A line for a job, or for each group of tasks that SLURM tells apart."""
    missing = job.missing_tasks(folder)
    finished = not missing
    if job.tasks:
        done = f"{job.tasks - len(missing)} of {job.tasks} tasks finished"
        yield job.name, job.id or "", done, "", "", ""
    for detail in queue.details(job):
        task = detail.get("ArrayTaskId", "")
        if job.tasks and detail.get("JobState") == "COMPLETED":
            continue
        name = f"{job.name} {task}" if task else job.name
        state = _state(detail)
        starts = str(int(detail.get("Restarts", "0")) + 1)
        yield name, job.id or "", state, _plain(detail.get("NodeList")), starts, detail.get("RunTime", "")
    if not job.tasks and not queue.details(job):
        yield job.name, job.id or "", "finished" if finished else "ended", "", "", ""


def _state(detail: dict[str, str]) -> str:
    state = detail.get("JobState", "").lower()
    reason = _plain(detail.get("Reason"))
    return f"{state} ({reason})" if reason and state in ("pending", "failed") else state


def _plain(text: str | None) -> str:
    return "" if text in (None, "(null)", "None") else str(text)


def _failures(job: Submitted, folder: Path) -> Iterator[str]:
    """Why a job, or a task of its array, ended without its result; by its log once SLURM has forgotten it."""
    found = queue.details(job)
    if not found and job.id is not None and job.missing_tasks(folder):
        yield f"{job.name}: {explain({}, tail(_newest_log(job, folder)))}"
    for detail in found:
        state = detail.get("JobState", "")
        if state in WAITING or state == "COMPLETED":
            continue
        name = job.name + (f" {detail['ArrayTaskId']}" if "ArrayTaskId" in detail else "")
        yield f"{name}: {explain(detail, tail(Path(detail.get('StdOut', '/nonexistent'))))}"


def logs(recipe: Recipe) -> None:
    """Print the end of the newest output of each job."""
    folder = launch_folder(recipe)
    if local.is_last(folder):
        _print_end(folder / local.LOG)
        return
    for job in queue.chosen(queue.read_record(folder), recipe.launch.job):
        for path in _logs(job, folder)[-(job.tasks or 1) :]:
            _print_end(path)


def _logs(job: Submitted, folder: Path) -> list[Path]:
    """Output of a job's submissions and tasks, the newest last."""
    return sorted(folder.glob(f"{job.name}-[0-9]*.log"), key=lambda path: path.stat().st_mtime)


def _newest_log(job: Submitted, folder: Path) -> Path:
    return (_logs(job, folder) or [folder / "none"])[-1]


def _print_end(path: Path) -> None:
    print(f"==> {path} <==", *tail(path).splitlines()[-_LINES:], "", sep="\n")


def cancel(recipe: Recipe) -> None:
    """End the jobs that SLURM still has; what they saved stays."""
    folder = launch_folder(recipe)
    if local.is_last(folder):
        found = local.cancel(_launched(folder), folder)
        say("asked to save and stop" if found else "nothing is at work here")
        return
    known = queue.chosen(queue.read_record(folder), recipe.launch.job)
    waiting = [job for job in known if set(queue.states(job)) & set(WAITING)]
    if waiting:
        subprocess.run(["scancel", *(str(job.id) for job in waiting)], check=False)
    for job in waiting:
        say(f"{job.name:<12} job {job.id} cancelled")
    if not waiting:
        say("no job is in the queue")


def resume(recipe: Recipe) -> None:
    """Submit again what did not finish: the same scripts, recipe, code and run folders.

    Raises:
        InputError: nothing was launched here, or its jobs are still in the queue.
        EnvironmentMissingError: SLURM's commands are not here, or sbatch refuses a script.
    """
    folder = launch_folder(recipe)
    if local.is_last(folder):
        local.resume(_launched(folder), folder)
        return
    require_slurm()
    jobs = queue.read_record(folder)
    queue.require_idle(folder)
    if not any(job.missing_tasks(folder) for job in jobs):
        say("every job has finished")
        return
    queue.submit(jobs, folder)


def _launched(folder: Path) -> Recipe:
    """The recipe of the last launch.

    Raises:
        InputError: it is gone.
    """
    path = folder / "recipe.yaml"
    if not path.exists():
        raise InputError(f"{path}: does not exist; launch again")
    return load_recipe(path)


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console().print(table)
