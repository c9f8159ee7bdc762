"""What long inputs show, as it is read off results.json: hidden facts by place, perplexity by window."""

from dataclasses import dataclass

from evaluation.report.compare import Bounds, Score
from evaluation.report.reading import Json


@dataclass(frozen=True, kw_only=True)
class Place:
    """Accuracy on the facts that are hidden in a part of texts of a length."""

    length: int
    """Tokens of the texts, about."""
    depth: tuple[float, float]
    """The part: 0 is the beginning, 1 the end."""
    score: Score
    """The accuracy."""


def read_places(entry: Json) -> list[Place]:
    """Those of a task's entry; none where nothing was hidden."""
    return [
        Place(
            length=int(one["length"]),
            depth=_pair(one["depth"]),
            score=Score(
                value=float(one["accuracy"]),
                bounds=_pair(one["ci"]),
                count=int(one["n"]),
                correct=int(one["correct"]),
            ),
        )
        for one in entry.get("by_place") or []
    ]


def read_contexts(entry: Json) -> list[tuple[int, Score]]:
    """Window and perplexity of a source's long documents."""
    return [
        (
            int(one["context"]),
            Score(
                value=float(one["perplexity"]),
                bounds=_pair(one["ci"]) if "ci" in one else None,
                count=int(one["tokens"]),
            ),
        )
        for one in entry.get("by_context") or []
    ]


def _pair(values: list[float]) -> Bounds:
    low, high = values
    return float(low), float(high)
