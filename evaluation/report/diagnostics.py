"""What an accuracy alone does not show: how sure a model is, its liking for places, known questions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluation.report.compare import Score
from evaluation.report.plot import Chart, Plot, Series, draw
from evaluation.report.reading import Json, number


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """A model on a task under a protocol."""

    ece: float | None
    """Expected calibration error, 0-1; None where the answers have no probabilities."""
    reliability: Sequence[tuple[float, float]]
    """Points of the reliability diagram: mean confidence and accuracy of each bin, in per cent."""
    lengths: Sequence[tuple[str, Score]]
    """Characters and accuracy of the shortest, middle and longest third of the questions."""
    chosen: Sequence[float]
    """How often each place among the options was chosen, 0-1."""
    right: Sequence[float]
    """How often each place is right, 0-1."""
    orders: int
    """Orders of the options that were asked; 1 where they were not rotated."""
    consistent: float | None
    """Questions whose chosen option is the same in all orders, 0-1."""
    mean_over_orders: float | None
    """Accuracy, mean over all orders."""
    std: float | None
    """Standard deviation over the seeds of the examples."""
    seeds: Mapping[str, Score]
    """Accuracy with each seed."""
    flagged: Score | None
    """Accuracy on the questions that curation found in the sources of the corpus."""
    clean: Score | None
    """Accuracy on the others."""


def diagnose(entry: Json) -> Diagnosis:
    """Read it off an entry of results.json; what is not there stays empty."""
    calibration = entry.get("calibration") or {}
    orders = entry.get("orders") or {}
    position = entry.get("position") or {}
    contamination = entry.get("contamination") or {}
    return Diagnosis(
        ece=number(calibration.get("ece")),
        reliability=[
            (100 * float(one["confidence"]), 100 * float(one["accuracy"]))
            for one in calibration.get("bins", [])
        ],
        lengths=[(_characters(one), _score(one)) for one in entry.get("by_length") or []],
        chosen=[float(share) for share in orders.get("chosen") or position.get("chosen") or []],
        right=[float(share) for share in position.get("right") or []],
        orders=int(orders.get("count") or 1),
        consistent=number(orders.get("consistent")),
        mean_over_orders=number(orders.get("mean")),
        std=number(entry.get("std")),
        seeds={str(seed): _score(one) for seed, one in (entry.get("seeds") or {}).items()},
        flagged=_optional(contamination.get("flagged")),
        clean=_optional(contamination.get("clean")),
    )


def _characters(group: Json) -> str:
    low, high = group["characters"]
    return f"{low:,} to {high:,}"


def _score(entry: Json) -> Score:
    low, high = entry["ci"]
    return Score(
        value=float(entry["accuracy"]),
        bounds=(float(low), float(high)),
        count=entry.get("n"),
        correct=entry.get("correct"),
    )


def _optional(entry: Json | None) -> Score | None:
    return None if entry is None else _score(entry)


def reliability_plot(name: str, models: Mapping[str, Diagnosis], labels: Sequence[str]) -> Plot | None:
    """Accuracy by confidence of all models on a task; a model that knows what it knows is on the diagonal."""
    series = [
        Series(name=label, points=list(models[label].reliability), colour=index)
        for index, label in enumerate(labels)
        if label in models and models[label].reliability
    ]
    if not series:
        return None
    diagonal = Series(name="as sure as right", points=[(0.0, 0.0), (100.0, 100.0)], style="faint")
    return draw(
        Chart(
            title=name,
            y_label="% right",
            x_label="mean confidence of a bin, %",
            series=[*series, diagonal],
            from_zero=True,
            note="The faint line is a model that is as often right as it is sure. Small bins jump.",
        )
    )
