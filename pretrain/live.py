"""What a person watches: a live view on a terminal, plain lines elsewhere."""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from meditron.config import Recipe
from meditron.progress import console, format_seconds, progress

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDTH = 80
_BARS = "▁▂▃▄▅▆▇█"
_CURVE = 44
"""Losses that the curve shows, one a column."""
_RECENT = 50
"""Steps that the time left is reckoned from."""


class Lines:
    """Plain lines, one every few seconds.

    Args:
        task: of `meditron.progress`.
    """

    def __init__(self, task: Any) -> None:  # noqa: ANN401
        self._task, self._started = task, False

    def log(self, event: str, step: int, fields: Mapping[str, Any]) -> None:
        """Show a record."""
        if not self._started:
            self._started = True
            self._task.start_at(step if event == "resume" else 0)
        if event == "step":
            figures = {"loss": fields["loss"], "lr": fields["lr"], "tok_s": fields["tokens_per_second"]}
            self._task.set(step, **figures)


class View:
    """The last figures of a run, as a table of at most 80 columns.

    Args:
        title: names model, layout and number format.
        train_steps: steps of the whole run.
    """

    def __init__(self, title: str, train_steps: int) -> None:
        self._title, self._train_steps = title, train_steps
        self._record: Mapping[str, Any] = {}
        self._step = 0
        self._losses: deque[float] = deque(maxlen=20 * _CURVE)
        self._ends: deque[float] = deque(maxlen=_RECENT)
        self._held_out: dict[str, str] = {}
        self._last = ""

    def log(self, event: str, step: int, fields: Mapping[str, Any]) -> None:
        """Take a record in."""
        self._step = step
        if event == "step":
            self._record = fields
            self._ends.append(time.monotonic())
            if isinstance(fields["loss"], float):
                self._losses.append(fields["loss"])
            if fields.get("skipped") or "loss_spike" in fields:
                self._last = f"step {step}: {'skipped' if fields.get('skipped') else 'the loss leaps'}"
        elif event == "validation":
            perplexity = fields["perplexity"]
            shown = f"{perplexity:,.2f}" if isinstance(perplexity, float) else perplexity
            self._held_out[fields["source"]] = f"{fields['source']} {shown}"
        elif event != "stragglers":
            self._last = f"step {step}: {event} {fields.get('path', '')}"

    def __rich__(self) -> "RenderableType":
        """The table as it is now."""
        from rich.box import SIMPLE
        from rich.table import Table

        table = Table(title=self._title, title_justify="left", box=SIMPLE, show_header=False, width=WIDTH)
        table.add_column(style="dim", width=10)
        table.add_column(no_wrap=True, overflow="ellipsis")
        for name, text in self.rows():
            table.add_row(name, text)
        return table

    def rows(self) -> Iterator[tuple[str, str]]:
        """Names and texts."""
        share = self._step / self._train_steps
        left = f", {self._left()} left" if len(self._ends) > 1 else ""
        yield "step", f"{bar(share)}  {self._step:,}/{self._train_steps:,} ({share:.0%}){left}"
        record = self._record
        if not record:
            yield "", "the first step is on its way"
            return
        yield "loss", f"{_short(record['loss'])}   {curve(list(self._losses), _CURVE)}"
        yield "rate", f"lr {_short(record['lr'])}   gradient norm {_short(record['grad_norm'])}"
        yield "speed", self._speed()
        yield "seconds", "  ".join(f"{k.replace('_', '+')} {v:.3g}" for k, v in record["seconds"].items())
        memory = record["memory_bytes"] / 1e9
        yield "so far", f"{record['tokens']:,} tokens   peak memory {memory:,.2f} GB a process"
        if self._held_out:
            yield "perplexity", "   ".join(self._held_out.values())
        if self._last:
            yield "last", self._last

    def _speed(self) -> str:
        record = self._record
        flops = (
            f"{record['tokens_per_second']:,.0f} tokens/s   {record['flops_per_second'] / 1e12:,.3g} TFLOP/s"
        )
        if record["mfu"] is None:
            return f"{flops}   MFU: set peak_flops"
        return f"{flops}   MFU {record['mfu']:.1%} of {record['peak_flops'] / 1e12:,.4g}"

    def _left(self) -> str:
        seconds = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        return format_seconds(seconds * (self._train_steps - self._step))


def bar(share: float, width: int = 20) -> str:
    """A bar of `width` columns."""
    full = round(share * width)
    return "━" * full + "╌" * (width - full)


def curve(values: list[float], width: int) -> str:
    """Values as columns of eight heights, from the lowest to the highest; means where they are many."""
    if not values:
        return ""
    count = min(width, len(values))
    cuts = [len(values) * n // count for n in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    low, high = min(means), max(means)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((mean - low) * scale)] for mean in means)


def _short(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value


def title(recipe: Recipe) -> str:
    """Model, layout and number format in a line."""
    config, layout = recipe.pretrain, recipe.pretrain.parallel
    name = str(recipe.model.base).rstrip("/").rsplit("/", 1)[-1]
    sizes = {
        "TP": layout.tensor_model_parallel_size,
        "PP": layout.pipeline_model_parallel_size,
        "CP": layout.context_parallel_size,
        "DP": layout.data_parallel_size,
    }
    cut = " x ".join(f"{kind}{size}" for kind, size in sizes.items() if size > 1) or "one process"
    return f"pretrain {name}   {config.engine}, {cut}, {config.precision}"


@contextmanager
def show(recipe: Recipe) -> Iterator[Lines | View]:
    """Show a run while the block runs."""
    steps = recipe.pretrain.train_steps
    if not console().is_terminal:
        with progress(steps, "pretrain", "steps") as task:
            yield Lines(task)
        return
    from rich.live import Live

    view = View(title(recipe), steps)
    with Live(view, console=console(), refresh_per_second=4):
        yield view
