"""Which strategies differ: every two of them, and each and its control, paired by seed.

Cells of one seed see the same pictures in the same order, so their difference varies less than either.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import pandas as pd

from shrinkflow import statistics, tables
from shrinkflow.statistics import ALPHA, Moments

PLACE = ["dataset", "model", "weights", "ratio"]
A_BETTER, B_BETTER = "a better", "b better"
EQUAL = "not distinguishable"
ONE_SEED, NO_SEED = "one seed", "no common seed"
# The same difference in every seed: no test can be made of it.
CONSTANT = "no deviation"

# Tables have six decimals, so that differences of as many pictures may be 2e-6 apart. One picture is more,
# as long as the test set has fewer than 400,000.
_ROUNDING = 2.5e-6

Accuracies = Mapping[int, float]


def comparisons(results: pd.DataFrame) -> pd.DataFrame:
    """Return `tables.COMPARISONS_COLUMNS`: a row per comparison of top-1 at one place.

    A place is a data set, model, weights and ratio above 1. There, every two strategies are compared, `a`
    before `b` by name, and after these each strategy `a` with its control `b`, which is at ratio 1. Both
    kinds are a family for Holm's method of their own. Crossed masks are left out; so is a seed that either
    lacks or has no top-1 for.
    """
    rows: list[dict[str, Any]] = []
    cells = tables.uncrossed(results)
    for place, group in cells[~tables.is_control(cells)].groupby(PLACE, sort=True):
        parts = {str(name): part for name, part in group.groupby("strategy", sort=True)}
        own = {name: _by_seed(part, "top1") for name, part in parts.items()}
        between = [(a, b, _difference(own[a], own[b])) for a, b in combinations(sorted(own), 2)]
        against = [
            (name, part["control"].iloc[0], _difference(own[name], _by_seed(part, "dense_top1")))
            for name, part in sorted(parts.items())
        ]
        names = dict(zip(PLACE, place, strict=True))
        for family in (between, against):
            rows += [names | row for row in _rows(family)]
    return pd.DataFrame(rows, columns=tables.COMPARISONS_COLUMNS)


def _by_seed(cells: pd.DataFrame, column: str) -> Accuracies:
    """Return {seed: value} of the seeds that have one."""
    values = zip(cells["seed"].tolist(), cells[column].tolist(), strict=True)
    return {seed: value for seed, value in values if math.isfinite(value)}


def _difference(a: Accuracies, b: Accuracies) -> Moments:
    """Return the moments of a - b over the seeds that both have."""
    values = [round(a[seed] - b[seed], 6) for seed in sorted(a.keys() & b.keys())]
    if not values:
        return Moments(0, math.nan)
    if max(values) - min(values) < _ROUNDING:
        values = [statistics.describe(values).mean] * len(values)
    return statistics.describe(values)


def _rows(family: list[tuple[str, str, Moments]]) -> Iterator[dict[str, Any]]:
    p = [statistics.paired_p(difference) for _, _, difference in family]
    for (a, b, difference), raw, adjusted in zip(family, p, statistics.holm(p), strict=True):
        yield {
            "a": a,
            "b": b,
            "n": difference.n,
            "difference": difference.mean,
            "sd": difference.sd,
            # An interval of no width would claim certainty.
            "low": difference.low if difference.sd else math.nan,
            "high": difference.high if difference.sd else math.nan,
            "p": raw,
            "p_holm": adjusted,
            "verdict": _verdict(difference, adjusted),
            "seeds_needed": statistics.pairs_needed(difference),
        }


def _verdict(difference: Moments, p: float) -> str:
    if difference.n < 2:
        return ONE_SEED if difference.n else NO_SEED
    if math.isnan(p):
        return CONSTANT
    if p > ALPHA:
        return EQUAL
    return A_BETTER if difference.mean > 0 else B_BETTER
