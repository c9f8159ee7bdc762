"""How far the tasks are: each says so in a file, and one line of progress shows the sum."""

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from meditron.progress import Task

REPORT_INTERVAL_SECONDS = 0.5


class Report:
    """A task's own account of how far it is, for whoever watches the folder.

    Args:
        folder: the folder of the set of tasks.
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
def watch(folder: Path, sizes: Sequence[float], task: Task) -> Iterator[None]:
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
    task.set(megabytes, **({"documents": documents} if documents else {}))
