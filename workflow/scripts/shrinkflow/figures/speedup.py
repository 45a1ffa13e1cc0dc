"""The figure "speedup": top-1 against the theoretical speedup."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from shrinkflow.figures import FIGURES, curves

MOST = 9


@FIGURES.adder("speedup")
def speedup(results: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw top-1 (mean, sample standard deviation) against the mean theoretical speedup."""
    return curves.tradeoff(summary, curves.SPEEDUP, round_numbers)


def round_numbers(low: float, high: float, ratios: Sequence[float]) -> Sequence[float]:
    """Return powers of two between `low` and `high`, or round numbers where those are too few."""
    exponents = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
    if len(exponents) >= 3:
        return [2.0**e for e in exponents[:: math.ceil(len(exponents) / MOST)]]
    locator = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])
    ticks = [float(tick) for tick in locator.tick_values(low, high) if low <= tick <= high]
    return ticks or [low]
