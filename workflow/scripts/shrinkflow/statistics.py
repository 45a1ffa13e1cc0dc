"""The statistics of repeated runs: mean, sample standard deviation, 95 % interval, paired tests."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import ncfdtr, stdtr, stdtrit

LEVEL = 0.95
ALPHA = 0.05
POWER = 0.8


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


def paired_p(difference: Moments) -> float:
    """Return the two-sided p of a paired t test (Student 1908) of differences between pairs.

    NaN with fewer than two pairs. Differences that do not vary leave t undefined (0 / 0) or infinite: equal
    to zero in every pair they speak for no difference at all, p = 1; otherwise p is NaN, because certainty is
    nothing that two or three runs can give.
    """
    n, mean, sd = difference.n, difference.mean, difference.sd
    if sd == 0:
        return 1.0 if mean == 0 else math.nan
    return 2 * float(stdtr(n - 1, -abs(mean) / (sd / math.sqrt(n)))) if n > 1 else math.nan


def holm(p: Sequence[float]) -> list[float]:
    """Return the p values of a family of tests, adjusted by the step-down method of Holm 1979.

    Any of them that is at most 0.05 may be called a difference; the chance of even one false call among
    all is then at most 0.05, whatever the dependence between the tests. One that is NaN stays NaN and
    counts as a member of the family.
    """
    adjusted = [math.nan] * len(p)
    highest = 0.0
    known = (place for place in range(len(p)) if not math.isnan(p[place]))
    for rank, place in enumerate(sorted(known, key=p.__getitem__)):
        highest = max(highest, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = highest
    return adjusted


def pairs_needed(difference: Moments) -> int | None:
    """Return how many pairs a two-sided paired t test at level 0.05 needs for a power of 80 %.

    The true difference and deviation are taken to be those observed (Cohen 1988); at least 2. None where
    the observed ones cannot say: fewer than two pairs, no difference, or differences that do not vary.
    """
    if not (difference.sd > 0 and difference.mean != 0 and math.isfinite(difference.mean)):
        return None
    effect = abs(difference.mean) / difference.sd
    low, high = 1, 2
    while _power(effect, high) < POWER:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _power(effect, middle) < POWER else (low, middle)
    return high


def _power(effect: float, n: int) -> float:
    """Return the power of the paired t test of `n` pairs: t squared is noncentral F, both tails in one.

    Where the power is 1 to all digits it may be NaN, which is not less than any power asked for.
    """
    critical = float(stdtrit(n - 1, (1 + LEVEL) / 2))
    return 1 - float(ncfdtr(1, n - 1, n * effect**2, critical**2))
