"""What datatrove's executors share here: logs in files, and a note of why a task failed."""

import copy
import importlib
import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datatrove.utils.logging as datatrove_logging
from datatrove.executor.base import PipelineExecutor
from datatrove.pipeline.base import PipelineStep

from meditron import errors
from meditron.errors import MeditronError
from meditron.files import atomic_write_json

_LOGURU_ERRORS: Any = importlib.import_module("loguru._error_interceptor")


class Tasks(PipelineExecutor):  # type: ignore[misc]
    """Comes before one of datatrove's executors in the bases of a class.

    A failed task leaves its error in `failures/<rank>.json`, since not every executor hands it on.
    """

    pipeline: list[PipelineStep]

    @abstractmethod
    def start(self, ranks: Sequence[int]) -> None:
        """Run these tasks and wait for them; the first error of a task is raised."""

    @property
    def folder(self) -> Path:
        """Where markers, logs and reports are."""
        return Path(self.logging_dir.path)

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:  # noqa: ANN401
        """Run one task, with steps of its own (they count), and its log beside those of the others."""
        fresh = copy.copy(self)
        fresh.pipeline = copy.deepcopy(self.pipeline)
        note = _note(self.folder, rank)
        try:
            note.unlink(missing_ok=True)
            with logs_to(self.folder / "datatrove.log"):
                return PipelineExecutor._run_for_rank(fresh, rank, local_rank, node_rank)
        except Exception as error:
            _keep_failure(note, error)
            raise

    def raise_failure(self, ranks: Sequence[int], end: str) -> None:
        """Raise the error of the first of these tasks that left one; where none has, say `end` of it.

        Raises:
            MeditronError: as the task raised it, or a sentence about a task that died without one.
        """
        for rank in ranks:
            note = _note(self.folder, rank)
            if note.exists():
                raise _failure(json.loads(note.read_text()), f"{self.folder}/logs/task_{rank:05d}.log")
        if ranks:
            raise MeditronError(f"curate: task {ranks[0]} of {self.folder.name} {end}")


def _note(folder: Path, rank: int) -> Path:
    return folder / "failures" / f"{rank:05d}.json"


def _keep_failure(note: Path, error: Exception) -> None:
    """Write an error down; on a full disk the task's marker is missing all the same."""
    try:
        atomic_write_json(note, {"error": type(error).__name__, "message": str(error)})
    except (OSError, MeditronError):
        return


def _failure(note: dict[str, str], log: str) -> MeditronError:
    kind = getattr(errors, note["error"], None)
    if isinstance(kind, type) and issubclass(kind, MeditronError):
        return kind(note["message"])
    return MeditronError(f"curate: a task failed ({note['error']}: {note['message']}); its log is {log}")


@contextmanager
def logs_to(path: Path) -> Iterator[None]:
    """Point the terminal sink of datatrove's logger at a file.

    It re-adds `sys.stderr` around every task, so the name it looks up is what has to change;
    redirecting the process's own stderr would swallow the progress line. A log that cannot be
    written (the disk is full) is no error of its own: the task's says what happened.
    """
    original = datatrove_logging.sys, _LOGURU_ERRORS.sys
    with open(path, "a", encoding="utf-8") as handle:
        datatrove_logging.sys = SimpleNamespace(stderr=handle)
        _LOGURU_ERRORS.sys = SimpleNamespace(stderr=None)
        datatrove_logging.setup_default_logger()
        try:
            yield
        finally:
            datatrove_logging.sys, _LOGURU_ERRORS.sys = original
            datatrove_logging.setup_default_logger()
