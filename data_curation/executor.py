"""Running tasks through datatrove, quietly: its logs in files, one line of progress for people.

A task is finished when its marker `completions/<rank>` exists; a second start runs the others only.
"""

import copy
import importlib
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datatrove.utils.logging as datatrove_logging
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from meditron.errors import MeditronError
from meditron.files import disk_errors
from meditron.progress import Task, progress

REPORT_INTERVAL_SECONDS = 0.5
_LOGURU_ERRORS: Any = importlib.import_module("loguru._error_interceptor")


def run_tasks(
    steps: Sequence[PipelineStep],
    *,
    sizes: Sequence[float],
    workers: int,
    folder: Path,
    title: str,
    part: tuple[int, int] | None = None,
) -> None:
    """Run every unfinished task, and show how far all of them are.

    Args:
        steps: datatrove steps; the task's rank chooses its work.
        sizes: size of each task in MB, one task per entry.
        workers: processes; 1 stays in this process.
        folder: markers, logs and reports of this set of tasks.
        title: what the progress line calls it.
        part: (i, n) runs the i-th of n runs of consecutive tasks only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index, parts = part or (0, 1)
    first, end = index * len(sizes) // parts, (index + 1) * len(sizes) // parts
    if first == end:
        return
    executor = QuietExecutor(
        pipeline=list(steps),
        tasks=len(sizes),
        workers=min(workers, end - first),
        logging_dir=str(folder),
        local_tasks=end - first,
        local_rank_offset=first,
    )
    finished = set(range(len(sizes))) - set(executor.get_incomplete_ranks())
    with disk_errors(folder), progress(sum(sizes), title, "MB") as task:
        task.start_at(sum(sizes[rank] for rank in finished))
        with _watch(folder, sizes, task), _logs_to(folder / "datatrove.log"):
            executor.run()


class QuietExecutor(LocalPipelineExecutor):  # type: ignore[misc]
    """datatrove's local executor with its log lines in a file, and with an eye on its workers."""

    pipeline: list[PipelineStep]

    def run(self) -> None:
        """Run the unfinished tasks.

        Raises:
            MeditronError: a worker was killed from outside; datatrove's own pool would wait for ever.
        """
        if self.workers == 1:
            super().run()
            return
        self.save_executor_as_json()
        own = range(self.local_rank_offset, self.local_rank_offset + self.local_tasks)
        ranks = self.get_incomplete_ranks(own)
        with ProcessPoolExecutor(
            self.workers,
            mp_context=multiprocessing.get_context("spawn"),  # a fork would copy the caller's locks
            initializer=_start_worker,
            initargs=(self,),
        ) as pool:
            try:
                for future in as_completed([pool.submit(_run_task, rank) for rank in ranks]):
                    future.result()
            except BrokenProcessPool:
                raise MeditronError(
                    "curate: a worker process was killed, most likely for want of memory; lower "
                    "curate.workers and start the same command again, finished tasks are kept"
                ) from None
            finally:
                pool.shutdown(cancel_futures=True)

    def run_task(self, rank: int) -> None:
        """Run one task, with steps of its own: they count."""
        fresh = copy.copy(self)
        fresh.pipeline = copy.deepcopy(self.pipeline)
        with _logs_to(Path(self.logging_dir.path) / "datatrove.log"):
            fresh._run_for_rank(rank)


_worker: QuietExecutor | None = None


def _start_worker(executor: QuietExecutor) -> None:
    global _worker
    _worker = executor


def _run_task(rank: int) -> None:
    assert _worker is not None, "the pool's initializer ran"
    _worker.run_task(rank)


@contextmanager
def _logs_to(path: Path) -> Iterator[None]:
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


class Report:
    """A task's own account of how far it is, for whoever watches the folder.

    Args:
        folder: the folder given to `run_tasks`.
        rank: the task.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self._path = folder / "reports" / f"{rank:05d}.json"
        self._path.parent.mkdir(exist_ok=True)
        self._last = 0.0

    def update(self, megabytes: float, documents: int, *, force: bool = False) -> None:
        """Say how much is done; written at most twice a second unless forced."""
        now = time.monotonic()
        if not force and now - self._last < REPORT_INTERVAL_SECONDS:
            return
        self._last = now
        aside = self._path.with_suffix(".part")
        aside.write_text(json.dumps({"megabytes": megabytes, "documents": documents}))
        os.replace(aside, self._path)


@contextmanager
def _watch(folder: Path, sizes: Sequence[float], task: Task) -> Iterator[None]:
    """Move the progress line by what the tasks report, until the block ends."""
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(REPORT_INTERVAL_SECONDS):
            _show(folder, sizes, task)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        _show(folder, sizes, task)


def _show(folder: Path, sizes: Sequence[float], task: Task) -> None:
    megabytes, documents = 0.0, 0
    reports = {int(path.stem): path for path in folder.glob("reports/*.json")}
    for rank, size in enumerate(sizes):
        report = json.loads(reports[rank].read_text()) if rank in reports else {}
        completed = (folder / "completions" / f"{rank:05d}").exists()
        megabytes += size if completed else min(report.get("megabytes", 0.0), size)
        documents += report.get("documents", 0)
    task.set(megabytes, documents=documents)
