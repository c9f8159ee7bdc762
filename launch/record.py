"""What `meditron run` remembers between two starts: `<work_dir>/run.json`, and a lock."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from meditron.errors import InputError
from meditron.files import atomic_write_json
from meditron.progress import console


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """How one stage stood when it was last run."""

    state: str
    """running, finished, stopped (saved on a signal) or failed."""
    config_hash: str
    """Hash of the stage's part of the recipe."""
    inputs: Mapping[str, str | None]
    """Name of each input to its hash when the stage started."""
    started: str
    """UTC time, ISO 8601."""
    ended: str | None = None
    """UTC time, ISO 8601."""
    seconds: float | None = None
    """Wall time of the stage, interrupted starts of the same work included."""
    exit_code: int | None = None
    """As the stage's process ended."""


class Records:
    """The records of all stages; each change is on disk, whole, before `set` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stages = _read(path)

    def get(self, stage: str) -> StageRecord | None:
        """The record of a stage; None when it was never run."""
        return self._stages.get(stage)

    def set(self, stage: str, record: StageRecord) -> None:
        """Replace the record of a stage."""
        self._stages[stage] = record
        content = {"stages": {name: asdict(known) for name, known in self._stages.items()}}
        atomic_write_json(self.path, content)


def _read(path: Path) -> dict[str, StageRecord]:
    known = {field.name for field in fields(StageRecord)}
    try:
        stages = json.loads(path.read_text(encoding="utf-8"))["stages"]
        return {
            name: StageRecord(**{key: value for key, value in record.items() if key in known})
            for name, record in stages.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: cannot be read as the record of the stages ({error}); remove it: every stage is then "
            "started again, and keeps what it had finished"
        ) from error


@contextmanager
def only_one(work_dir: Path) -> Iterator[int]:
    """Yield the descriptor of a lock on `work_dir`; a stage that inherits it holds the lock as well.

    So a second run is refused even when the first was killed and left its stage working.

    Raises:
        InputError: another run is at work there.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(work_dir / ".run.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(
            f"{work_dir}: another `meditron run`, or a stage it left, is at work here; wait for it, end it, "
            "or choose another work_dir"
        ) from None
    except OSError as error:  # some network file systems
        console().print(f"{work_dir}: cannot be locked ({error.strerror}), so start only one run in it")
    try:
        yield descriptor
    finally:
        os.close(descriptor)
