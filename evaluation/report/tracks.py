"""Intervals of several models as small bars in a table's cell, all rows on one scale."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluation.report.compare import Score
from evaluation.report.plot import BOX, COLOURS, Scale
from evaluation.report.results import PerplexityRow, TaskRow

ROW_HEIGHT = 11
"""CSS pixels of one model's bar."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A model's interval; lengths are in the stretched box of 1000."""

    colour: int
    """Index into the palette."""
    y: float
    """Middle of the bar."""
    value: float
    """Place of the estimate."""
    low: float
    """Place of the interval's lower end."""
    high: float
    """Place of the interval's upper end."""


@dataclass(frozen=True, kw_only=True)
class Track:
    """The bars of one row."""

    bars: Sequence[Bar]
    """One a model."""
    height: int
    """CSS pixels."""
    reference: float | None
    """Place of the value to compare with, such as chance."""


def accuracy_tracks(rows: Sequence[TaskRow], labels: Sequence[str]) -> list[Track]:
    """Accuracies on 0-100 %, with chance."""
    scale = Scale(0.0, 1.0)
    return [_track(row.scores, labels, scale, row.chance) for row in rows]


def perplexity_tracks(rows: Sequence[PerplexityRow], labels: Sequence[str]) -> list[Track]:
    """Perplexities on one logarithmic scale."""
    scores = [score for row in rows for score in row.scores.values()]
    ends = [end for score in scores for end in (score.bounds or (score.value, score.value))]
    low, high = min(ends, default=1.0), max(ends, default=2.0)
    scale = Scale(low * 0.98, high * 1.02, logarithmic=True)
    return [_track(row.scores, labels, scale, None) for row in rows]


def _track(
    scores: Mapping[str, Score], labels: Sequence[str], scale: Scale, reference: float | None
) -> Track:
    present = [label for label in labels if label in scores]
    bars = []
    for index, label in enumerate(present):
        score = scores[label]
        low, high = score.bounds or (score.value, score.value)
        bars.append(
            Bar(
                colour=labels.index(label) % COLOURS,
                y=round(BOX * (index + 0.5) / len(present), 1),
                value=round(BOX * scale(score.value), 1),
                low=round(BOX * scale(low), 1),
                high=round(BOX * scale(high), 1),
            )
        )
    place = None if reference is None else round(BOX * scale(reference), 1)
    return Track(bars=bars, height=ROW_HEIGHT * max(len(bars), 1), reference=place)
