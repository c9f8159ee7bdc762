"""Intervals of what was measured."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
ACCURACY_METHOD = "Wilson 95%"
RESAMPLES = 10_000
CALIBRATION_BINS = 10
LENGTH_GROUPS = 3
_BLOCK = 500_000
"""Items drawn at once; small enough for a processor's cache."""

Floats = npt.NDArray[np.float64]


def wilson(correct: int, n: int) -> tuple[float, float]:
    """95 % interval of a share by Wilson's score method, without continuity correction (JASA 22, 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(correct, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def ratio_interval(
    sums: Sequence[float], sizes: Sequence[float], resamples: int, seed: int
) -> tuple[float, float] | None:
    """95 % percentile interval of `sum(sums) / sum(sizes)` by resampling the items they belong to.

    Args:
        sums: what each item adds to the numerator, [items].
        sizes: what each item adds to the denominator, [items].
        resamples: bootstrap samples.
        seed: seed of the resampling.

    Returns:
        None for fewer than two items, of which nothing can be said.
    """
    if len(sums) < 2:
        return None
    parts = np.array([sums, sizes], np.float64)
    ratios = [totals[0] / totals[1] for totals in _resampled_sums(parts, resamples, seed)]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(ratios), [tail, 1 - tail])
    return float(low), float(high)


def _resampled_sums(parts: Floats, resamples: int, seed: int) -> list[Floats]:
    """Sums over items drawn with replacement, blocks of [parts, resamples]."""
    items = parts.shape[1]
    generator = np.random.default_rng(seed)
    block = max(_BLOCK // items, 1)
    sums = []
    for begin in range(0, resamples, block):
        size = (min(block, resamples - begin), items)
        drawn = generator.integers(0, items, size=size, dtype=np.int32)
        sums.append(parts[:, drawn].sum(axis=-1))
    return sums


def diagnostics(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What an accuracy alone does not show: calibration, preference for places, difficulty by length."""
    found: dict[str, Any] = {"position": position_shares(samples), "by_length": by_length(samples)}
    sure = [sample for sample in samples if sample.get("probabilities")]
    if sure:
        confidences = [max(sample["probabilities"]) for sample in sure]
        found["calibration"] = calibration(confidences, [sample["correct"] for sample in sure])
    return found


def calibration(confidences: Sequence[float], correct: Sequence[bool]) -> dict[str, Any]:
    """Expected calibration error and the bins of a reliability diagram (arXiv 1706.04599, equation 5).

    Args:
        confidences: probability of the chosen option, [questions].
        correct: whether it is the right one, [questions].
    """
    values, rights = np.array(confidences), np.array(correct, np.float64)
    places = np.minimum((values * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    bins = []
    for place in np.unique(places):
        own = places == place
        bins.append(
            {
                "from": place / CALIBRATION_BINS,
                "n": int(own.sum()),
                "confidence": float(values[own].mean()),
                "accuracy": float(rights[own].mean()),
            }
        )
    error = sum(one["n"] * abs(one["accuracy"] - one["confidence"]) for one in bins) / len(values)
    return {"ece": float(error), "bins": bins}


def position_shares(samples: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """How often each place among the options is chosen, and how often it is right, [places]."""
    places = max(len(sample["options"]) for sample in samples)
    chosen = [sample["prediction"] for sample in samples if sample["prediction"] is not None]
    right = [sample["answer"] for sample in samples]
    return {
        name: (np.bincount(values, minlength=places) / max(len(values), 1)).tolist()
        for name, values in (("chosen", np.array(chosen, int)), ("right", np.array(right, int)))
    }


def by_length(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Accuracy of the shortest, middle and longest third of the questions, by characters asked."""
    if len(samples) < LENGTH_GROUPS:
        return []
    lengths = np.array([len(sample["context"]) + len(sample["question"]) for sample in samples])
    order = np.argsort(lengths, kind="stable")
    groups = []
    for own in np.array_split(order, LENGTH_GROUPS):
        correct = sum(bool(samples[index]["correct"]) for index in own)
        groups.append(
            {
                "characters": [int(lengths[own].min()), int(lengths[own].max())],
                "n": len(own),
                "correct": correct,
                "accuracy": correct / len(own),
                "ci": list(wilson(correct, len(own))),
            }
        )
    return groups


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Exact two-sided McNemar test of two models on the same questions: its p-value."""
    from scipy.stats import binomtest

    one, other = np.array(first, bool), np.array(second, bool)
    gained, lost = int((other & ~one).sum()), int((one & ~other).sum())
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def paired_difference(
    first: Sequence[bool], second: Sequence[bool], resamples: int, seed: int
) -> tuple[float, float] | None:
    """95 % interval of the second model's accuracy minus the first's, by resampling questions."""
    differences = np.array(second, np.float64) - np.array(first, np.float64)
    return ratio_interval(differences.tolist(), [1.0] * len(differences), resamples, seed)
