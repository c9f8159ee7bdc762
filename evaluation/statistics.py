"""Intervals of what was measured."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
ACCURACY_METHOD = "Wilson 95%"
_BLOCK = 64 * 2**20 // 8
"""Numbers of one block of resampling; bounds its memory at 64 MiB."""

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
    """Sums over items drawn with replacement, [parts, resamples], in blocks.

    A bootstrap sample is how often each item is drawn: multinomial counts, so that all sums are one
    matrix product.
    """
    items = parts.shape[1]
    generator = np.random.default_rng(seed)
    block = max(_BLOCK // items, 1)
    sums = []
    for begin in range(0, resamples, block):
        size = min(block, resamples - begin)
        counts = generator.multinomial(items, np.full(items, 1 / items), size=size)
        sums.append(parts @ counts.T.astype(np.float64))
    return sums
