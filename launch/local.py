"""The launcher on one machine: `meditron run` in the background, with the interface of the SLURM jobs."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from launch import queue
from launch.jobs import chosen_stages
from launch.queue import say
from launch.record import Records, only_one
from launch.script import check_syntax, local_script
from launch.snapshot import write_snapshot
from meditron.config import Recipe
from meditron.config.loading import dump_recipe
from meditron.errors import InputError, StageError
from meditron.files import atomic_write_json, atomic_write_text

RECORD = "local.json"
LOG = "local.log"
SCRIPT = "local.sh"
_START_SECONDS = 20.0


def launch(recipe: Recipe, folder: Path) -> None:
    """Start a recipe's stages, or print the script that would (`launch.dry_run`).

    Raises:
        ConfigError: the recipe has no stage, or `launch.setup` is no shell.
        InputError: the last start, or a job of this work folder, still works.
        StageError: the run ended at once.
    """
    chosen_stages(recipe)
    text = local_script(recipe)
    check_syntax([text], recipe.launch.setup)
    if recipe.launch.dry_run:
        print(f"==> {folder / SCRIPT} <==\n{text}", end="")
        return
    require_idle(Path(recipe.work_dir))
    queue.require_idle(folder)
    (folder / queue.RECORD).unlink(missing_ok=True)
    atomic_write_text(folder / "recipe.yaml", dump_recipe(recipe))
    atomic_write_text(folder / SCRIPT, text)
    if recipe.launch.snapshot:
        write_snapshot(folder / "code")
    _start(Path(recipe.work_dir), folder)


def resume(recipe: Recipe, folder: Path) -> None:
    """Start the last launch again, from its first unfinished stage.

    Raises:
        InputError: it still works.
        StageError: it ended at once.
    """
    require_idle(Path(recipe.work_dir))
    _start(Path(recipe.work_dir), folder)


def require_idle(work_dir: Path) -> None:
    """Refuse a second start beside one that is still at work.

    Raises:
        InputError: it is.
    """
    if is_at_work(work_dir):
        raise InputError(
            f"{work_dir}: stages are at work here already; see `meditron launch status`, or end them with "
            "`meditron launch cancel`"
        )


def _start(work_dir: Path, folder: Path) -> None:
    """Start the script as a process that outlives this one and its terminal."""
    command, nothing = ["bash", str(folder / SCRIPT)], subprocess.DEVNULL
    with open(folder / LOG, "ab") as log:
        process = subprocess.Popen(command, stdin=nothing, stdout=log, stderr=log, start_new_session=True)
    atomic_write_json(folder / RECORD, {"pid": process.pid})
    _wait_for_lock(work_dir, process)
    if process.poll():
        error = StageError(f"launch: the run ended at once; see the end of {folder / LOG}")
        error.exit_code = process.returncode
        raise error
    say(f"started as process {process.pid}; output: {folder / LOG}; see also: meditron launch status")


def _wait_for_lock(work_dir: Path, process: "subprocess.Popen[bytes]") -> None:
    """Wait until the run holds its folder, so that a status asked for at once is true."""
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and not is_at_work(work_dir) and time.monotonic() < deadline:
        time.sleep(0.1)


def is_at_work(work_dir: Path) -> bool:
    """Whether a `meditron run`, or a stage it left, works in a folder."""
    if not work_dir.is_dir():
        return False
    try:
        with only_one(work_dir):
            return False
    except InputError:
        return True


def is_last(folder: Path) -> bool:
    """Whether the last launch of a work folder was one on this machine."""
    return (folder / RECORD).exists()


def forget(folder: Path) -> None:
    """Let a submission to SLURM be the last launch."""
    (folder / RECORD).unlink(missing_ok=True)


def status(recipe: Recipe) -> list[tuple[str, str, str]]:
    """(stage, state, seconds) of every stage of the recipe."""
    work_dir = Path(recipe.work_dir)
    records = Records(work_dir / "run.json")
    alive = is_at_work(work_dir)
    rows = []
    for stage in chosen_stages(recipe):
        record = records.get(stage.name)
        state = record.state if record else "waiting"
        if state == "running" and not alive:
            state = "killed"
        rows.append((stage.name, state, f"{record.seconds:.0f}" if record and record.seconds else ""))
    return rows


def cancel(recipe: Recipe, folder: Path) -> bool:
    """Ask the run to save and stop; returns whether there was one."""
    if not is_at_work(Path(recipe.work_dir)):
        return False
    pid = int(json.loads((folder / RECORD).read_text())["pid"])
    os.kill(pid, signal.SIGTERM)
    return True
