"""Curves and maps of what models make of long inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluation.report.long import Place
from evaluation.report.plot import Chart, Plot, Series, draw
from evaluation.report.results import PerplexityRow, TaskRow


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """Accuracy on hidden facts by length and depth, a table for each model."""

    title: str
    """Task and protocol."""
    lengths: Sequence[int]
    """Columns."""
    depths: Sequence[tuple[float, float]]
    """Rows."""
    cells: Mapping[str, Mapping[tuple[int, tuple[float, float]], Place]]
    """Model label to what is in each cell."""


def long_plots(
    tasks: Sequence[TaskRow], perplexity: Sequence[PerplexityRow], labels: Sequence[str]
) -> list[Plot]:
    """Accuracy on hidden facts by length, then perplexity by window: what was measured of it."""
    charts = [_found(row, labels) for row in tasks] + [_by_window(row, labels) for row in perplexity]
    plots = [draw(chart) for chart in charts]
    return [plot for plot in plots if plot is not None]


def _found(row: TaskRow, labels: Sequence[str]) -> Chart:
    return Chart(
        title=f"{row.task}, {row.protocol}: hidden facts found",
        y_label="% right",
        x_label="length of the text, tokens, logarithmic",
        series=_series({label: _by_length(places) for label, places in row.places.items()}, labels),
        from_zero=True,
        x_logarithmic=True,
    )


def _by_length(places: Sequence[Place]) -> list[tuple[float, float]]:
    sums: dict[int, tuple[int, int]] = {}
    for place in places:
        correct, count = sums.get(place.length, (0, 0))
        sums[place.length] = correct + (place.score.correct or 0), count + (place.score.count or 0)
    return [(float(length), 100 * correct / count) for length, (correct, count) in sorted(sums.items())]


def _by_window(row: PerplexityRow, labels: Sequence[str]) -> Chart:
    curves = {
        label: [(float(context), score.value) for context, score in points]
        for label, points in row.contexts.items()
    }
    return Chart(
        title=f"{row.source}: perplexity of long documents",
        y_label="perplexity, logarithmic",
        x_label="window, tokens, logarithmic",
        series=_series(curves, labels),
        logarithmic=True,
        x_logarithmic=True,
        note="The same documents in longer and longer windows; a model's curve ends at its own limit.",
    )


def _series(curves: Mapping[str, list[tuple[float, float]]], labels: Sequence[str]) -> list[Series]:
    return [
        Series(name=label, points=curves[label], colour=index)
        for index, label in enumerate(labels)
        if label in curves
    ]


def heat_map(row: TaskRow) -> HeatMap:
    """The cells of a task that hides facts."""
    everything = [place for places in row.places.values() for place in places]
    return HeatMap(
        title=f"{row.task}, {row.protocol}",
        lengths=sorted({place.length for place in everything}),
        depths=sorted({place.depth for place in everything}),
        cells={
            label: {(place.length, place.depth): place for place in places}
            for label, places in row.places.items()
        },
    )
