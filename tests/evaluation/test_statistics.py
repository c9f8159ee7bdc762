"""Intervals against their formulas and against known coverage."""

import math

import numpy as np
import pytest

from evaluation.statistics import ratio_interval, wilson


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


def test_resampling_depends_on_the_seed_alone_and_not_on_one_item() -> None:
    sums, sizes = [1.0, 5.0, 2.0], [1.0, 2.0, 3.0]
    assert ratio_interval(sums, sizes, 100, seed=7) == ratio_interval(sums, sizes, 100, seed=7)
    assert ratio_interval([1.0], [2.0], 100, seed=7) is None
