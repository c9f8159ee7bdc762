"""Intervals against their formulas and against known coverage."""

import math
from typing import Any

import numpy as np
import pytest

from evaluation.statistics import (
    by_length,
    calibration,
    diagnostics,
    mcnemar,
    order_effect,
    paired_difference,
    position_shares,
    ratio_interval,
    wilson,
)


@pytest.mark.parametrize(("correct", "n"), [(0, 10), (15, 60), (10, 10), (1, 1), (700, 1272)])
def test_wilson_is_the_formula(correct: int, n: int) -> None:
    z, share = 1.959963984540054, correct / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = wilson(correct, n)
    assert low == pytest.approx(max(middle - half, 0.0), abs=1e-12)
    assert high == pytest.approx(min(middle + half, 1.0), abs=1e-12)


def test_a_ratio_of_sums_is_covered_as_often_as_said() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        sizes = generator.integers(10, 200, 60).astype(float)
        sums = sizes * generator.normal(3.0, 0.5, 60)
        interval = ratio_interval(sums.tolist(), sizes.tolist(), 500, seed=trial)
        assert interval is not None
        covered += interval[0] <= 3.0 <= interval[1]
    assert 0.89 <= covered / 200 <= 0.99


def test_resampling_is_that_of_scipy() -> None:
    from scipy.stats import bootstrap

    generator = np.random.default_rng(2)
    sizes = generator.integers(10, 200, 40).astype(float)
    sums = sizes * generator.normal(3.0, 0.5, 40)
    reference = bootstrap(
        (sums, sizes),
        lambda one, other, axis: one.sum(axis) / other.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=20_000,
        rng=3,
    ).confidence_interval
    interval = ratio_interval(sums.tolist(), sizes.tolist(), 20_000, seed=4)
    assert interval == pytest.approx((reference.low, reference.high), abs=0.01)


def test_items_that_are_alike_are_resampled_as_if_they_were_not() -> None:
    rights = [1.0] * 70 + [0.0] * 130
    alike = ratio_interval(rights, [1.0] * 200, 20_000, seed=4)
    apart = ratio_interval(rights, [1.0 + 1e-9 * number for number in range(200)], 20_000, seed=5)
    assert alike is not None
    assert apart is not None
    assert alike == pytest.approx(apart, abs=0.006)
    half = 1.96 * math.sqrt(0.35 * 0.65 / 200)
    assert alike == pytest.approx((0.35 - half, 0.35 + half), abs=0.008)


def test_resampling_depends_on_the_seed_alone_and_not_on_one_item() -> None:
    sums, sizes = [1.0, 5.0, 2.0], [1.0, 2.0, 3.0]
    assert ratio_interval(sums, sizes, 100, seed=7) == ratio_interval(sums, sizes, 100, seed=7)
    assert ratio_interval([1.0], [2.0], 100, seed=7) is None


def sample(answer: int, prediction: int | None, length: int = 10, confidence: float = 0.6) -> dict[str, Any]:
    rest = (1 - confidence) / 3
    return {
        "question": "q" * length,
        "context": "",
        "options": ["a", "b", "c", "d"],
        "answer": answer,
        "prediction": prediction,
        "correct": prediction == answer,
        "probabilities": [confidence, rest, rest, rest],
    }


def test_mcnemar_is_that_of_the_textbook() -> None:
    # 8 gained and 2 lost: P(X <= 2) + P(X >= 8) of a fair coin thrown ten times
    first = [True] * 2 + [False] * 8 + [True] * 30
    second = [False] * 2 + [True] * 8 + [True] * 30
    assert mcnemar(first, second) == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert mcnemar(first, first) == 1.0


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    generator = np.random.default_rng(5)
    first = generator.random(400) < 0.5
    second = first | (generator.random(400) < 0.1)
    interval = paired_difference(first.tolist(), second.tolist(), 4000, seed=1)
    assert interval is not None
    difference = float(second.mean() - first.mean())
    assert interval[0] < difference < interval[1]
    own = wilson(int(first.sum()), 400)
    assert interval[1] - interval[0] < own[1] - own[0]
    assert interval[0] > 0


def test_calibration() -> None:
    # 0.9 sure and right in 9 of 10; 0.55 sure and right in 1 of 10
    found = calibration([0.9] * 10 + [0.55] * 10, [True] * 9 + [False] + [True] + [False] * 9)
    assert found["ece"] == pytest.approx(0.5 * 0.0 + 0.5 * 0.45)
    assert [(one["from"], one["n"]) for one in found["bins"]] == [(0.5, 10), (0.9, 10)]
    assert calibration([1.0], [True]) == {
        "ece": 0.0,
        "bins": [{"from": 0.9, "n": 1, "confidence": 1.0, "accuracy": 1.0}],
    }


def test_position_and_length() -> None:
    samples = [sample(n % 4, 0, length=n) for n in range(8)] + [sample(1, None, length=9)]
    assert position_shares(samples)["chosen"] == [1.0, 0.0, 0.0, 0.0]
    assert position_shares(samples)["right"] == pytest.approx([2 / 9, 3 / 9, 2 / 9, 2 / 9])
    groups = by_length(samples)
    assert [group["characters"] for group in groups] == [[0, 2], [3, 5], [6, 9]]
    assert [group["correct"] for group in groups] == [1, 1, 0]
    assert by_length(samples[:2]) == []
    assert diagnostics(samples)["calibration"]["ece"] == pytest.approx(abs(0.6 - 2 / 9))
    for one in samples:
        one["probabilities"] = None
    assert "calibration" not in diagnostics(samples)


def test_the_effect_of_the_order() -> None:
    texts = ["a", "b", "c", "d"]

    def asked(by: int, choose: str | None) -> dict[str, Any]:
        options = texts[by:] + texts[:by]
        place = 0 if choose is None else options.index(choose)
        answer = options.index("b")
        return {"options": options, "prediction": place, "answer": answer, "correct": place == answer}

    # one question is always answered "b", which is right; the other always with the first place
    found = order_effect([[asked(by, "b"), asked(by, None)] for by in range(4)])
    assert found["count"] == 4
    assert found["consistent"] == 0.5
    assert found["accuracies"] == [0.5, 1.0, 0.5, 0.5]
    assert found["mean"] == pytest.approx(0.625)
    assert found["chosen"] == [5 / 8, 1 / 8, 1 / 8, 1 / 8]
    invalid = [[{**asked(by, "b"), "prediction": None}] for by in range(4)]
    assert order_effect(invalid)["consistent"] == 0.0
