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
from typing import Any, Self

from torch.distributed.distributed_c10d import _get_default_store

from meditron.errors import TrainingError

REMEMBERED = 100
"""Steps whose median is the usual duration."""
BEFORE_TIMEOUT = 0.9
"""Share of the process groups' timeout that anything may take: when that is over, no stacks are written."""
GRACE_SECONDS = 6.0
"""How long the process that notices waits before it ends, so that the others can write their stacks before
their messages fail."""
POLL_SECONDS = 1.0
"""Time between two looks at whether another process has noticed."""
NOTICED = "meditron/hang"
"""Key in the store of the process group that the first process that notices sets."""


class Watchdog:
    """Watches this process, from entering to leaving it as a context, and hears what the others notice.

    Args:
        factor: how many median steps one may take; 0 never ends the process.
        min_seconds: time that one may always take.
        timeout_seconds: that of the process groups. `BEFORE_TIMEOUT` of it is the most that a step may take,
            and what the first step and a pause may, of which no usual duration is known.
        report: file that the stacks go to.
    """

    def __init__(self, factor: float, min_seconds: float, timeout_seconds: float, report: Path) -> None:
        self._factor, self._min_seconds, self._report = factor, min_seconds, report
        self._longest = BEFORE_TIMEOUT * timeout_seconds
        self._steps: deque[float] = deque(maxlen=REMEMBERED)
        self._now = (time.monotonic(), True)
        """When what goes on began, and whether it may take `_longest`; replaced as one, for the thread."""
        self._ended, self._hangs, self._others_hang = (threading.Event() for _ in range(3))

    def __enter__(self) -> Self:
        """Begin to watch the first step."""
        self._begin(slow=True)
        if self._factor:
            for work in (self._watch, self._exchange):
                threading.Thread(target=work, daemon=True).start()
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
        self._steps.append(time.monotonic() - self._now[0])
        self._begin(slow=False)

    def goes_on(self) -> None:
        """Say that a part of a pause, or of what precedes the first step, has ended, and the next begins."""
        self._begin(slow=True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is no step and may take longer: a validation, a checkpoint."""
        self._begin(slow=True)
        try:
            yield
        finally:
            self._begin(slow=not self._steps)

    def _begin(self, *, slow: bool) -> None:
        self._now = (time.monotonic(), slow)

    def _limit(self, slow: bool) -> float:
        """Seconds after which what goes on counts as hanging."""
        if slow:
            return self._longest
        return min(max(self._factor * statistics.median(self._steps), self._min_seconds), self._longest)

    def _watch(self) -> None:
        while True:
            others_hang = self._others_hang.wait(min(self._min_seconds / 4, POLL_SECONDS))
            if self._ended.is_set():
                return
            began, slow = self._now
            seconds, limit = time.monotonic() - began, self._limit(slow)
            if seconds > limit:
                why = f"no step ended for {seconds:.0f} s, and {limit:.0f} s are allowed"
                self._end_process(why, GRACE_SECONDS)
            elif others_hang:  # it ends before the process that noticed does, and its messages fail
                self._end_process("another process hangs", GRACE_SECONDS / 2)

    def _exchange(self) -> None:
        """In a thread and with a connection of its own: the store may be what does not answer."""
        try:
            shared: Any = _get_default_store()
            store = shared.clone()
            while True:
                hangs = self._hangs.wait(POLL_SECONDS)
                if self._ended.is_set():
                    return
                if hangs:
                    store.set(NOTICED, "")
                    return
                if store.check([NOTICED]):
                    self._others_hang.set()
        except (RuntimeError, ValueError):  # it has gone with its process, which the next message reports
            return

    def _end_process(self, why: str, grace: float) -> None:
        self._hangs.set()
        self._report.parent.mkdir(parents=True, exist_ok=True)
        usual = f"{statistics.median(self._steps):.2f} s" if self._steps else "not known"
        with open(self._report, "w") as handle:
            handle.write(f"{why}; usual duration of a step: {usual}\n\n")
            handle.flush()
            faulthandler.dump_traceback(handle, all_threads=True)
        print(
            f"meditron: pretrain: {why} (pretrain.fault.hang_factor, pretrain.timeout_minutes), so this "
            f"process ends; where it stood is in {self._report}, the same command goes on from the last "
            "checkpoint",
            file=sys.stderr,
            flush=True,
        )
        time.sleep(grace)
        os._exit(TrainingError.exit_code)
