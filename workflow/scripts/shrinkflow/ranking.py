"""How strategies rank: the area under the trade-off curve, and mean ranks with a critical difference.

What is ranked together is a network, (data set, model, weights), at the ratios that its strategies share.
"""

from __future__ import annotations

import math
import statistics as exact
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import friedmanchisquare, rankdata, studentized_range

from shrinkflow import statistics, tables
from shrinkflow.statistics import ALPHA

NETWORK = ["dataset", "model", "weights"]
# What stands for data set, model and weights where ranks go over all of them.
ALL = "all"

# {ratio: {seed: top-1}} of a strategy.
Curve = Mapping[float, Mapping[int, float]]


@dataclass(frozen=True)
class Ranks:
    """Mean ranks over blocks, 1 being best; NaN, and nobody in the best group, where no test can be made."""

    mean: tuple[float, ...]
    blocks: int
    friedman_p: float
    critical_difference: float
    best_group: tuple[bool | None, ...]


def ranking(results: pd.DataFrame) -> pd.DataFrame:
    """Return `tables.RANKING_COLUMNS`: a row per network and strategy; then one per strategy over all.

    A network's strategies are ranked at the ratios above 1 that all of them share, each by its mean over the
    seeds that all have there. Those that have one ratio where others have several (2:4 is at 2 and nowhere
    else) are left out. Over all networks, the blocks are those of every network, and the strategies those
    that are in all of them.
    """
    cells = tables.uncrossed(results)
    pruned = cells[~tables.is_control(cells) & np.isfinite(cells["top1"])]
    rows: list[dict[str, Any]] = []
    together: list[dict[str, float]] = []
    for network, group in pruned.groupby(NETWORK, sort=True):
        curves, ratios = _shared(group)
        blocks = [block for ratio in ratios if (block := _block(curves, ratio))]
        areas = {name: _areas(curve, ratios) for name, curve in curves.items()}
        rows += _rows(dict(zip(NETWORK, network, strict=True)), blocks, areas)
        together += blocks
    rows += _rows(dict.fromkeys(NETWORK, ALL), together, {})
    return pd.DataFrame(rows, columns=tables.RANKING_COLUMNS)


def area(top1: Sequence[float], ratios: Sequence[float]) -> float:
    """Return the mean height of a trade-off curve: its area against log2(ratio) divided by the width.

    By the trapezoidal rule; the ratios, two at least, ascend.
    """
    x = [math.log2(ratio) for ratio in ratios]
    total = math.fsum(
        (b - a) * (p + q) / 2 for (a, b), (p, q) in zip(pairwise(x), pairwise(top1), strict=True)
    )
    return total / (x[-1] - x[0])


def ranks(scores: np.ndarray) -> Ranks:
    """Rank k strategies in n blocks by float [n, k], higher being better; equal ones share their mean rank.

    Friedman 1937, with the correction for ties, by the chi-squared distribution; the critical difference of
    mean ranks at level 0.05 is Nemenyi's 1963 (Demšar 2006). Both take two blocks and three strategies. The
    best group are those whose rank is less than the critical difference behind the best, or all of
    them where Friedman's test finds no difference: without it there is nothing to look for.
    """
    n, k = scores.shape
    mean = tuple(float(value) for value in rankdata(-scores, axis=1).mean(axis=0))
    if n < 2 or k < 3:
        return Ranks(mean, n, math.nan, math.nan, (None,) * k)
    alike = bool((scores == scores[:, :1]).all())
    p = 1.0 if alike else float(friedmanchisquare(*scores.T).pvalue)
    width = critical_difference(k, n)
    best = min(mean)
    return Ranks(mean, n, p, width, tuple(p > ALPHA or rank - best < width for rank in mean))


@cache
def critical_difference(k: int, n: int) -> float:
    """Return Nemenyi's critical difference of the mean ranks of k strategies in n blocks, at level 0.05."""
    return float(studentized_range.isf(ALPHA, k, np.inf)) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))


def _shared(group: pd.DataFrame) -> tuple[dict[str, Curve], list[float]]:
    """Return the strategies of a network that are ranked together, by name, and the ratios they share."""
    curves: dict[str, dict[float, dict[int, float]]] = {}
    for name, ratio, seed, top1 in group[["strategy", "ratio", "seed", "top1"]].itertuples(index=False):
        curves.setdefault(name, {}).setdefault(ratio, {})[seed] = top1
    if any(len(curve) > 1 for curve in curves.values()):
        curves = {name: curve for name, curve in curves.items() if len(curve) > 1}
    shared = set.intersection(*map(set, curves.values()))
    return {name: curves[name] for name in sorted(curves)}, sorted(shared)


def _areas(curve: Curve, ratios: Sequence[float]) -> list[float]:
    """Return the area of each seed that has all ratios; none where there are fewer than two ratios."""
    if len(ratios) < 2:
        return []
    seeds = set.intersection(*(set(curve[ratio]) for ratio in ratios))
    return [area([curve[ratio][seed] for ratio in ratios], ratios) for seed in sorted(seeds)]


def _block(curves: Mapping[str, Curve], ratio: float) -> dict[str, float]:
    """Return each strategy's mean over the seeds that all have at a ratio; nothing where there are none."""
    seeds = set.intersection(*(set(curve[ratio]) for curve in curves.values()))
    if not seeds:
        return {}
    means = {name: exact.fmean(curve[ratio][seed] for seed in seeds) for name, curve in curves.items()}
    # Rounded, so that equal sums of table entries are ties.
    return {name: round(mean, 9) for name, mean in means.items()}


def _rows(
    network: Mapping[str, str], blocks: Sequence[Mapping[str, float]], areas: Mapping[str, Sequence[float]]
) -> list[dict[str, Any]]:
    names = sorted(set.intersection(*map(set, blocks))) if blocks else []
    found = ranks(np.array([[block[name] for name in names] for block in blocks])) if len(names) > 1 else None
    rows: list[dict[str, Any]] = []
    for place, name in enumerate(names or sorted(areas)):
        row: dict[str, Any] = {**network, "strategy": name}
        if areas.get(name):
            moments = statistics.describe(areas[name])
            row |= {"n": moments.n, "area_mean": moments.mean, "area_sd": moments.sd}
            row |= {"area_low": moments.low, "area_high": moments.high}
        if found:
            row |= {
                "rank_mean": found.mean[place],
                "blocks": found.blocks,
                "critical_difference": found.critical_difference,
                "friedman_p": found.friedman_p,
                "best_group": found.best_group[place],
            }
        rows.append(row)
    return rows
