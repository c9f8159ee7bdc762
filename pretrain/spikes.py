"""Losses that leap: how far a loss lies above the last ones, in robust standard deviations."""

import statistics
from collections.abc import Sequence

MIN_LOSSES = 16
"""Losses that must be known before one can be called a leap."""
_MAD_TO_DEVIATION = 1.4826  # of a normal distribution
_LEAST_SPREAD = 1e-3  # of the median; losses that are all but equal make no leap of a rounding


def robust_zscore(loss: float, recent: Sequence[float]) -> float:
    """Distance of a loss from the median of the recent ones, in units of 1.4826 median absolute deviations.

    Median and deviation are blind to the leaps that the recent losses hold themselves (Iglewicz and Hoaglin,
    How to detect and handle outliers, 1993). Returns 0 while fewer than `MIN_LOSSES` are known.
    """
    if len(recent) < MIN_LOSSES:
        return 0.0
    middle = statistics.median(recent)
    spread = statistics.median(abs(value - middle) for value in recent) * _MAD_TO_DEVIATION
    return (loss - middle) / max(spread, _LEAST_SPREAD * abs(middle), 1e-12)
