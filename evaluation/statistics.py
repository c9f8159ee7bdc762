"""Intervals of what was measured."""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
ACCURACY_METHOD = "Wilson 95%"
RESAMPLES = 10_000
CALIBRATION_BINS = 10
LENGTH_GROUPS = 3
_COST_OF_A_KIND = 8
"""How many times as long it takes to draw the count of a kind of items as to draw an item."""
_BLOCK = 50_000
"""Items drawn at once; small enough for a processor's cache."""

Floats = npt.NDArray[np.float64]


def wilson(correct: float, n: int) -> tuple[float, float]:
    """95 % interval of a share by Wilson's score method, without continuity correction (JASA 22, 1927).

    `correct` need not be whole: a mean over seeds is not.
    """
    share, z2 = correct / n, NormalDist().inv_cdf((1 + CONFIDENCE) / 2) ** 2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return max(middle - half, 0.0), min(middle + half, 1.0)


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
    values, weights = np.array(sums, np.float64), np.array(sizes, np.float64)
    if (weights == weights[0]).all():  # every resample is of the same size, which need not be summed up
        ratios = _resampled_sums(values[None], resamples, seed)[0] / (len(weights) * weights[0])
    else:
        numerators, denominators = _resampled_sums(np.stack([values, weights]), resamples, seed)
        ratios = numerators / denominators
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return float(low), float(high)


def _resampled_sums(parts: Floats, resamples: int, seed: int) -> Floats:
    """Sums over items drawn with replacement, [parts, resamples].

    Where many items are alike, as right and wrong answers are, drawing how often each kind comes up is the
    same as drawing the items, and far less work.
    """
    items = parts.shape[1]
    generator = np.random.default_rng(seed)
    kinds, counts = np.unique(parts, axis=1, return_counts=True)
    if len(counts) * _COST_OF_A_KIND < items:
        drawn = generator.multinomial(items, counts / items, size=resamples)
        return np.asarray(kinds @ drawn.T)
    rows = max(_BLOCK // items, 1)
    sums, block = np.empty((len(parts), resamples)), np.empty((rows, items))
    for begin in range(0, resamples, rows):
        size = (min(rows, resamples - begin), items)
        places = generator.integers(0, items, size=size, dtype=np.uint16 if items < 2**16 else np.int32)
        for part, own in zip(parts, sums, strict=True):
            # No place is outside, so nothing wraps; the other modes copy the places to check them.
            values = part.take(places, mode="wrap", out=block[: size[0]])
            values.sum(axis=-1, out=own[begin : begin + size[0]])
    return sums


def diagnostics(
    samples: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """What an accuracy alone does not show: calibration, preference for places, difficulty by length.

    Args:
        samples: one for each question; `correct` may be a mean over seeds.
        answers: those of all seeds, which calibration and places are counted in (default: samples).
    """
    answers = samples if answers is None else answers
    found: dict[str, Any] = {"position": position_shares(answers), "by_length": by_length(samples)}
    sure = [sample for sample in answers if sample.get("probabilities")]
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


def order_effect(orders: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """How much the choice depends on the place of an option, by asking in every rotated order.

    Args:
        orders: samples of the same questions, once for each order; the first one is the file's.

    Returns:
        `count` of orders, `accuracies` in each and their `mean`; `consistent`, the share of questions whose
        chosen option is the same in all orders; `chosen`, how often each place is chosen over all orders, of
        the questions with as many options as orders: without a preference each as often as any other.
    """
    everything = [sample for samples in orders for sample in samples if len(sample["options"]) == len(orders)]
    texts = [[_chosen_text(sample) for sample in samples] for samples in orders]
    same = [None not in answers and len(set(answers)) == 1 for answers in zip(*texts, strict=True)]
    accuracies = [float(np.mean([sample["correct"] for sample in samples])) for samples in orders]
    return {
        "count": len(orders),
        "accuracies": accuracies,
        "mean": float(np.mean(accuracies)),
        "consistent": float(np.mean(same)),
        "chosen": position_shares(everything)["chosen"] if everything else [],
    }


def _chosen_text(sample: Mapping[str, Any]) -> str | None:
    chosen = sample["prediction"]
    return None if chosen is None else str(sample["options"][chosen])


def by_length(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Accuracy of the shortest, middle and longest third of the questions, by characters asked."""
    if len(samples) < LENGTH_GROUPS:
        return []
    lengths = np.array([len(sample["context"]) + len(sample["question"]) for sample in samples])
    order = np.argsort(lengths, kind="stable")
    groups = []
    for own in np.array_split(order, LENGTH_GROUPS):
        correct = math.fsum(samples[index]["correct"] for index in own)
        groups.append(
            {
                "characters": [int(lengths[own].min()), int(lengths[own].max())],
                "n": len(own),
                "correct": int(correct) if correct == int(correct) else round(correct, 3),
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
    first: Sequence[float], second: Sequence[float], resamples: int, seed: int
) -> tuple[float, float] | None:
    """95 % interval of the second model's accuracy minus the first's, by resampling questions.

    What a question scores is 0 or 1, or its mean over seeds.
    """
    differences = np.array(second, np.float64) - np.array(first, np.float64)
    return ratio_interval(differences.tolist(), [1.0] * len(differences), resamples, seed)
