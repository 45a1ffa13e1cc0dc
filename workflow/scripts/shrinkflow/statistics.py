"""The statistics of repeated runs: mean, sample standard deviation, 95 % interval of the mean."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

LEVEL = 0.95


@dataclass(frozen=True)
class Moments:
    """What n runs say. Whatever they cannot say is NaN.

    `sd` is the sample standard deviation (ddof = 1), in the unit of the values. `low` and `high`
    are the 95 % interval of the mean by Student's t (Student 1908): it assumes values close to
    normal, and with three runs it is wide (4.30 standard errors on either side).
    """

    n: int
    mean: float
    sd: float = math.nan
    low: float = math.nan
    high: float = math.nan


def describe(values: Sequence[float]) -> Moments:
    """Describe one number per run. The order of the values does not change a bit of the result.

    One run has a mean, and no deviation or interval. A missing value (NaN) makes all of it NaN: a
    mean over fewer runs than `n` would mislead. An infinite one leaves an infinite mean, and no
    deviation. Raises `ValueError` where there are no values at all.
    """
    n = len(values)
    if n == 0:
        raise ValueError("nothing to describe")
    if not all(math.isfinite(value) for value in values):
        return Moments(n, sum(values))
    mean = statistics.fmean(values)
    if n == 1:
        return Moments(n, mean)
    # The standard library's deviation is computed in exact fractions and rounded once, so that
    # equal values deviate by exactly zero.
    sd = statistics.stdev(values)
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * sd / math.sqrt(n)
    return Moments(n, mean, sd, mean - half, mean + half)
