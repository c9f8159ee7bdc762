"""Which curves the page shows of a training run."""

from collections.abc import Mapping

from evaluation.report.numbers import count
from evaluation.report.plot import Chart, Plot, Series, draw
from evaluation.report.training import Points, TrainingRun, running_mean

SMOOTHED_FROM = 100
"""Steps from which the loss gets a running mean."""
MAX_SOURCES = 8
"""Curves of one plot; more could not be told apart."""


def training_plots(run: TrainingRun, kinds: Mapping[str, str]) -> list[Plot]:
    """Loss, validation, learning rate, gradient norm, speed: what the log has of them."""
    charts = [
        _loss(run),
        _validation(run, kinds),
        _single(run, "lr", "Learning rate", "AdamW step size", from_zero=True),
        _single(run, "grad_norm", "Gradient norm", "norm before clipping"),
        _single(run, "tokens_per_second", "Throughput", "tokens per second", from_zero=True),
        _mfu(run),
    ]
    plots = [draw(chart) for chart in charts]
    return [plot for plot in plots if plot is not None]


def _loss(run: TrainingRun) -> Chart:
    points = run.curve("loss")
    series = [Series(name="each step", points=points)]
    if len(points) >= SMOOTHED_FROM:
        width = len(points) // 50 * 2 + 1
        mean = Series(name=f"mean of {width} steps", points=running_mean(points, width))
        series = [Series(name="each step", points=points, style="faint"), mean]
    return Chart(
        title="Training loss",
        y_label="nats per token",
        series=series,
        marks=run.skipped,
        note=_skipped_note(run),
    )


def _skipped_note(run: TrainingRun) -> str:
    if not run.skipped:
        return ""
    steps = ", ".join(f"{step:,}" for step in run.skipped[:10])
    more = " and others" if len(run.skipped) > 10 else ""
    plural = "s were" if len(run.skipped) > 1 else " was"
    return (
        f"{count(len(run.skipped))} step{plural} skipped because a loss or gradient was not finite "
        f"(vertical lines): {steps}{more}."
    )


def _validation(run: TrainingRun, kinds: Mapping[str, str]) -> Chart:
    curves = run.validation_curves()
    shown = sorted(curves, key=lambda source: (kinds.get(source) == "general", source))[:MAX_SOURCES]
    series = [
        Series(
            name=source,
            points=curves[source],
            colour=index,
            style="dashed" if kinds.get(source) == "general" else "solid",
        )
        for index, source in enumerate(shown)
    ]
    return Chart(
        title="Perplexity on held-out text",
        y_label="perplexity, logarithmic",
        series=series,
        logarithmic=True,
        note=_validation_note(curves, kinds),
    )


def _validation_note(curves: Mapping[str, Points], kinds: Mapping[str, str]) -> str:
    sentences = []
    if any(kinds.get(source) == "general" for source in curves):
        sentences.append("Solid lines are medical sources, dashed ones general text.")
    if len(curves) > MAX_SOURCES:
        sentences.append(f"{len(curves) - MAX_SOURCES} more sources are in the log only.")
    return " ".join(sentences)


def _single(run: TrainingRun, key: str, title: str, label: str, *, from_zero: bool = False) -> Chart:
    series = [Series(name=title.lower(), points=run.curve(key))]
    return Chart(title=title, y_label=label, series=series, from_zero=from_zero)


def _mfu(run: TrainingRun) -> Chart:
    points = [(step, 100 * share) for step, share in run.curve("mfu")]
    return Chart(
        title="Model FLOP utilisation",
        y_label="% of the peak",
        series=[Series(name="MFU", points=points)],
        from_zero=True,
    )
