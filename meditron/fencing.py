"""One writer for a run folder: each start takes the folder over from the one before it.

A scheduler may start a run again while processes of its last start still live (SLURM does when a node's
daemon dies but its tasks go on). Each start therefore takes the next number by creating a file of that name,
which only one can do, and writes only while there is no higher one. A lock is held besides, so that a new
start waits until an old one, which sees the higher number after at most a step, is gone.

The check and the rename of a checkpoint after it are two steps, and an old start may stand still between
them. So a new one, once it has its number, first removes what is half written
(`checkpoints.remove_leftovers`) and only then looks for the newest checkpoint. What the old one has begun
before that, it can no longer rename, or it had renamed it, and the new one finds it; what it begins later, it
checks later, and sees the higher number.
"""

import fcntl
import json
import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path

from meditron.errors import TrainingError
from meditron.progress import console

WAIT_SECONDS = 60.0
"""How long a new start waits for an old one that lives; it then goes on, and the old one may not write."""


class TakenOverError(TrainingError):
    """A later start of the same run has taken its folder over."""


@dataclass(kw_only=True)
class Fence:
    """The right to write to a run folder; held by one process of a start."""

    folder: Path
    """Holds a file for each start, and the lock."""
    number: int
    """This start, counted from 1."""
    _lock: int = field(repr=False)

    @classmethod
    def take(cls, run_folder: Path, wait_seconds: float = WAIT_SECONDS) -> "Fence":
        """Take a run folder over, and wait for an older start to be gone."""
        folder = run_folder / "starts"
        folder.mkdir(parents=True, exist_ok=True)
        number = _next_number(folder)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        _wait_for(lock, folder, wait_seconds)
        return cls(folder=folder, number=number, _lock=lock)

    def check(self) -> None:
        """Refuse to go on after a later start.

        Raises:
            TakenOverError: there is one.
        """
        following = self.folder / _name(self.number + 1)
        if following.exists():
            raise TakenOverError(
                f"{self.folder.parent}: {_who(following)} has taken this run over, so this start of it ends "
                "and writes nothing more; nothing is to be done where a scheduler restarted it"
            )

    def release(self) -> None:
        """Let a waiting start go on."""
        os.close(self._lock)


def _name(number: int) -> str:
    return f"{number:08d}"


def _next_number(folder: Path) -> int:
    number = max((int(path.name) for path in folder.glob("[0-9]" * 8)), default=0)
    while True:
        number += 1
        try:
            descriptor = os.open(folder / _name(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            continue
        with os.fdopen(descriptor, "w") as handle:
            job = os.environ.get("SLURM_JOB_ID")
            json.dump({"host": platform.node(), "pid": os.getpid(), "job": job, "time": time.time()}, handle)
            handle.flush()
            os.fsync(handle.fileno())
        return number


def _wait_for(lock: int, folder: Path, seconds: float) -> None:
    """Wait for the lock; goes on without it where the file system has none, or nobody gives it up."""
    deadline = time.monotonic() + seconds
    told = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not told:
                console().print(f"{folder.parent}: an earlier start still works here; waiting for it to end")
                told = True
        except OSError:
            return
        if time.monotonic() > deadline:
            console().print(f"{folder.parent}: the earlier start does not end; it can write nothing more")
            return
        time.sleep(0.2)


def _who(path: Path) -> str:
    try:
        start = json.loads(path.read_text())
        job = f" (job {start['job']})" if start.get("job") else ""
        return f"process {start['pid']} on {start['host']}{job}"
    except (OSError, ValueError, KeyError):
        return "another start"
