"""What a later model changed against the first one, and whether it is more than chance explains."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SIGNIFICANCE = 0.05
RESAMPLES = 10_000
SEED = 1234
Bounds = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number of a model, with its interval."""

    value: float
    """Accuracy (0-1), or perplexity."""
    bounds: Bounds | None
    """95 % interval."""
    count: int | None
    """Questions, or tokens."""
    correct: int | None = None
    """Questions answered correctly."""
    invalid: int | None = None
    """Answers that are none of the options."""
    ties: int | None = None
    """Questions whose vote was a tie; None where there was no vote."""
    documents: Sequence[tuple[float, int]] = ()
    """Summed loss and tokens of each held-out document, where they are recorded."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A model's score against the first model's."""

    difference: float
    """After minus before in points of per cent; for perplexity, the change in per cent."""
    overlap: bool | None
    """Whether the two intervals overlap; None where one is unknown."""
    gained: int | None = None
    """Questions that only the later model answers correctly."""
    lost: int | None = None
    """Questions that only the earlier model answers correctly."""
    p_value: float | None = None
    """Exact McNemar test over the same questions."""
    paired: Bounds | None = None
    """95 % interval of the difference in points of per cent, over the questions that both models answered."""

    interval: Bounds | None = None
    """95 % interval of the difference itself, over the documents that both models read."""

    @property
    def verdict(self) -> str:
        """What the difference is worth, in words."""
        if self.interval is not None:
            return "beyond chance" if self.is_evidence else "not beyond chance"
        found = self.p_value is not None and self.p_value < SIGNIFICANCE
        if self.overlap is None:
            return "no interval, so no judgement"
        if self.overlap:
            return "intervals overlap, paired test finds a difference" if found else "inside the intervals"
        if self.p_value is not None and not found:
            return "outside the intervals, but not in the paired test"
        return "outside the intervals"

    @property
    def is_evidence(self) -> bool:
        """Whether the change is more than chance explains: by a paired comparison, else by the intervals."""
        if self.interval is not None:
            return self.interval[0] > 0 or self.interval[1] < 0
        return self.p_value < SIGNIFICANCE if self.p_value is not None else self.overlap is False


def compare_accuracies(
    before: Score, after: Score, answers_before: Mapping[str, float], answers_after: Mapping[str, float]
) -> Change:
    """The change of an accuracy; paired where both models answered the same questions.

    Answers are 1 where right, else 0, or the mean of that over the seeds of the solved examples.
    """
    gained = lost = p_value = paired = None
    if answers_before and answers_before.keys() == answers_after.keys():
        gained = sum(answers_after[key] > right for key, right in answers_before.items())
        lost = sum(answers_after[key] < right for key, right in answers_before.items())
        p_value = mcnemar(gained, lost)
        paired = _paired_difference(answers_before, answers_after)
    return Change(
        difference=100 * (after.value - before.value),
        overlap=_overlap(before.bounds, after.bounds),
        gained=gained,
        lost=lost,
        p_value=p_value,
        paired=paired,
    )


def _paired_difference(before: Mapping[str, float], after: Mapping[str, float]) -> Bounds | None:
    """Bootstrap over questions of the difference in accuracy, in points of per cent."""
    from evaluation.statistics import paired_difference

    right = [after[key] for key in before]
    interval = paired_difference(list(before.values()), right, RESAMPLES, SEED)
    return None if interval is None else (100 * interval[0], 100 * interval[1])


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided McNemar test: could changed answers go either way with equal chance?"""
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def _overlap(one: Bounds | None, other: Bounds | None) -> bool | None:
    return None if one is None or other is None else one[0] <= other[1] and other[0] <= one[1]


def compare_perplexities(before: Score, after: Score) -> Change:
    """The change of a perplexity; paired where the losses of the same documents are recorded."""
    return Change(
        difference=100 * (after.value / before.value - 1),
        overlap=_overlap(before.bounds, after.bounds),
        interval=_paired_interval(before.documents, after.documents),
    )


def _paired_interval(
    before: Sequence[tuple[float, int]], after: Sequence[tuple[float, int]]
) -> Bounds | None:
    """95 % interval of the change in per cent: bootstrap over documents of the difference in loss."""
    from evaluation.statistics import ratio_interval

    sizes = [tokens for _, tokens in before]
    if not sizes or sizes != [tokens for _, tokens in after]:
        return None
    differences = [later - earlier for (earlier, _), (later, _) in zip(before, after, strict=True)]
    interval = ratio_interval(differences, sizes, RESAMPLES, SEED)
    if interval is None:
        return None
    low, high = interval
    return 100 * math.expm1(low), 100 * math.expm1(high)
