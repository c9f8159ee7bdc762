"""A step that never ends: after many times the usual duration, every process writes its stacks and ends."""

import faulthandler
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from meditron.errors import TrainingError

REMEMBERED = 100
"""Steps whose median is the usual duration."""
GRACE_SECONDS = 5.0
"""How long the first process that notices waits for the others to write their stacks as well."""


class Watchdog:
    """Watches the steps of this process, from entering to leaving it as a context.

    Args:
        factor: how many median steps one may take; 0 never ends the process.
        min_seconds: time that one may always take.
        report: file that the stacks go to.
    """

    def __init__(self, factor: float, min_seconds: float, report: Path) -> None:
        self._factor, self._min_seconds, self._report = factor, min_seconds, report
        self._steps: deque[float] = deque(maxlen=REMEMBERED)
        self._last: float | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        """Begin to watch, once a step has shown how long one takes."""
        if self._factor:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop watching."""
        self._ended.set()

    def step_ended(self) -> None:
        """Say that a step has just ended, and the next begins."""
        now = time.monotonic()
        if self._last is not None:
            self._steps.append(now - self._last)
        self._last = now

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not watch what is no step: a validation, a checkpoint. The process group's timeout does."""
        self._last = None
        try:
            yield
        finally:
            self._last = time.monotonic()

    @property
    def limit(self) -> float:
        """Seconds after which a step counts as hanging."""
        return max(self._factor * statistics.median(self._steps), self._min_seconds)

    def _watch(self) -> None:
        while not self._ended.wait(min(self._min_seconds / 4, 5.0)):
            last = self._last
            if last is not None and self._steps and time.monotonic() - last > self.limit:
                self._end_process(time.monotonic() - last)

    def _end_process(self, seconds: float) -> None:
        self._report.parent.mkdir(parents=True, exist_ok=True)
        with open(self._report, "w") as handle:
            handle.write(f"no step ended for {seconds:.1f} s; a step usually takes ")
            handle.write(f"{statistics.median(self._steps):.2f} s\n\n")
            handle.flush()
            faulthandler.dump_traceback(handle, all_threads=True)
        print(
            f"meditron: pretrain: no step ended for {seconds:.0f} s (pretrain.fault.hang_factor), so this "
            f"process ends; where it stood is in {self._report}, the same command goes on from the last "
            "checkpoint",
            file=sys.stderr,
            flush=True,
        )
        time.sleep(GRACE_SECONDS)
        os._exit(TrainingError.exit_code)
