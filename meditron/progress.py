"""Progress that a person can watch: a live bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

PLAIN_INTERVAL_SECONDS = 10.0


@cache
def console() -> "Console":
    """The console on standard error that all messages for people go to."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


class Task:
    """One line of progress; `advance` and `set` carry named figures to show beside it."""

    def __init__(self, total: float | None, description: str, unit: str, bar: "Progress | None") -> None:
        self.total, self.description, self.unit = total, description, unit
        self.done = 0.0
        self._initial = 0.0
        self._fields: dict[str, Any] = {}
        self._started = self._printed = time.monotonic()
        self._bar = bar
        self._bar_task = bar.add_task(description, total=total, figures="", amount="") if bar else None

    def start_at(self, done: float) -> None:
        """Say where a resumed task begins, so that its rate counts only new work."""
        self._initial = done
        self.set(done)

    def advance(self, n: float = 1, **fields: Any) -> None:  # noqa: ANN401 - figures of any type
        """Add `n` units of finished work."""
        self.set(self.done + n, **fields)

    def set(self, done: float, **fields: Any) -> None:  # noqa: ANN401
        """Set the finished work to `done` units."""
        self.done = done
        self._fields.update(fields)
        if self._bar is not None and self._bar_task is not None:
            self._bar.update(self._bar_task, completed=done, figures=self._figures(), amount=self.amount())
        elif time.monotonic() - self._printed >= PLAIN_INTERVAL_SECONDS:
            self.print_line()

    def print_line(self) -> None:
        """Print the present state as one plain line."""
        self._printed = time.monotonic()
        print(self._line(), file=sys.stderr, flush=True)

    def _line(self) -> str:
        elapsed = max(time.monotonic() - self._started, 1e-9)
        rate = (self.done - self._initial) / elapsed
        share = f" ({self.done / self.total:.0%})" if self.total else ""
        parts = [f"{self.description}:", f"{self.amount()}{share}"]
        shown = rate * self._scale()[0]
        parts.append(f"{shown:,.3g}/s" if shown < 1000 else f"{shown:,.0f}/s")
        if self.total and rate > 0:
            parts.append(f"{format_seconds((self.total - self.done) / rate)} left")
        return "  ".join([*parts, self._figures()]).rstrip()

    def amount(self) -> str:
        """`3/10 steps`; of a few megabytes one decimal, and of less than one the kilobytes."""
        scale, unit, digits = self._scale()
        whole = "" if not self.total else f"/{self.total * scale:,.{digits}f}"
        return f"{self.done * scale:,.{digits}f}{whole} {unit}"

    def _scale(self) -> tuple[int, str, int]:
        """Factor, unit and decimals that amounts are shown with."""
        if self.unit == "MB" and self.total is not None and self.total < 100:
            return (1024, "KB", 1) if self.total < 1 else (1, "MB", 1)
        return 1, self.unit, 0

    def _figures(self) -> str:
        return "  ".join(f"{name} {_short(value)}" for name, value in self._fields.items())


def _short(value: Any) -> str:  # noqa: ANN401
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def format_seconds(seconds: float) -> str:
    """`75` -> `1:15`, `4000` -> `1:06:40`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def progress(total: float | None, description: str, unit: str = "items") -> Iterator[Task]:
    """Show progress over `total` units (None: unknown) while the block runs."""
    if not console().is_terminal:
        task = Task(total, description, unit, None)
        yield task
        task.print_line()
        return
    with _bar() as bar:
        yield Task(total, description, unit, bar)


def _bar() -> "Progress":
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[amount]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[figures]}"),
        console=console(),
    )
