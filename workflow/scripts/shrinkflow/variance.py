"""Where the variance of top-1 comes from: initial weights, masks, finetuning.

Random-effects analysis of variance of balanced tables, by equating mean squares with their expectations
(Searle, Casella & McCulloch 1992). Masks belong to weights, and trainings to masks, but the design is
crossed: the same training seeds serve all masks and all weights. A nested analysis would hold what a seed
does to all of them alike for a difference within each, and subtract it from the components above.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from shrinkflow import tables
from shrinkflow.strategies import CROSSED

GROUP = ["dataset", "model", "strategy", "ratio"]
NO_SEEDS = "fewer than two seeds"
NO_WEIGHTS = "one set of weights"
NOT_CROSSED = "masks are not crossed"
MISSING = "some cells are missing"
NEGATIVE = "negative estimate given as 0"

# What rounding to six decimals adds to a variance; less than that is none.
_ROUNDING = 1e-12 / 12


@dataclass(frozen=True)
class Components:
    """Estimated components of variance, which may be negative; NaN where a table cannot tell."""

    weights: float = math.nan
    mask: float = math.nan
    finetuning: float = math.nan


def variance(results: pd.DataFrame) -> pd.DataFrame:
    """Return `tables.VARIANCE_COLUMNS`: a row per data set, model, strategy and ratio, controls too.

    The balanced part is used: the seeds that all weights have, and crossed masks where all of those seeds'
    are there. Where they are not, mask and finetuning have one component in common. Negative estimates
    are given as 0; shares are of the sum of what is given. `note` says what could not be told.
    """
    parts = results["strategy"].str.partition(CROSSED)
    table = results.assign(
        strategy=parts[0],
        mask=[int(mask) if mask else seed for mask, seed in zip(parts[2], results["seed"], strict=True)],
        control=tables.is_control(results),
    )
    rows = [
        dict(zip(GROUP, group, strict=True)) | _row(cells) for group, cells in table.groupby(GROUP, sort=True)
    ]
    return pd.DataFrame(rows, columns=tables.VARIANCE_COLUMNS)


def of_seeds(top1: np.ndarray) -> Components:
    """Split the variance of float [weights, seeds], the same seeds for all weights, at least two.

    With one weights there is no component of it. The finetuning component is that of whatever a seed
    decides: without a mask, the finetuning; with one, both.
    """
    a, seeds = top1.shape
    within = float(top1.var(axis=1, ddof=1).mean())
    if a == 1:
        return Components(finetuning=within)
    by_weights, rest = _mean_squares(top1)
    return Components(weights=(by_weights - rest) / seeds, finetuning=within)


def of_masks(top1: np.ndarray) -> Components:
    """Split the variance of float [weights, masks, seeds], the same seeds for all masks, two or more of each.

    Masks may be those of their own weights, or one choice for all weights (random ones are): what all weights
    have in common of a mask cancels from the component of the weights, as does that of a seed.
    """
    a, masks, seeds = top1.shape
    finetuning = float(top1.var(axis=2, ddof=1).mean())
    inside = [_mean_squares(table) for table in top1]
    mask = float(np.mean([by_mask - rest for by_mask, rest in inside])) / seeds
    if a == 1:
        return Components(mask=mask, finetuning=finetuning)
    by_weights = masks * seeds * float(top1.mean(axis=(1, 2)).var(ddof=1))
    with_masks = seeds * _mean_squares(top1.mean(axis=2))[1]
    with_seeds = masks * _mean_squares(top1.mean(axis=1))[1]
    return Components(
        weights=(by_weights - with_masks - with_seeds + _residual(top1)) / (masks * seeds),
        mask=mask,
        finetuning=finetuning,
    )


def _mean_squares(table: np.ndarray) -> tuple[float, float]:
    """Return the mean squares of the rows, and of the interaction, of float [rows, columns]."""
    rows, columns = table.shape
    by_row = columns * float(table.mean(axis=1).var(ddof=1))
    return by_row, _squares(table) / ((rows - 1) * (columns - 1))


def _residual(table: np.ndarray) -> float:
    """Return the mean square of the interaction of all three ways of float [a, b, c]."""
    a, b, c = table.shape
    return float(_squares(table) / ((a - 1) * (b - 1) * (c - 1)))


def _squares(table: np.ndarray) -> float:
    """Return the sum of squares of the highest interaction: without the means along each way."""
    for axis in range(table.ndim):
        table = table - table.mean(axis=axis, keepdims=True)
    return float((table**2).sum())


def _row(cells: pd.DataFrame) -> dict[str, Any]:
    values = {
        (weights, mask, seed): top1
        for weights, mask, seed, top1 in cells[["weights", "mask", "seed", "top1"]].itertuples(index=False)
        if math.isfinite(top1)
    }
    control = bool(cells["control"].iloc[0])
    crossed = bool((cells["mask"] != cells["seed"]).any())
    weights = sorted(set(cells["weights"]))
    seeds = sorted(
        seed for seed in set(cells["seed"]) if all((name, seed, seed) in values for name in weights)
    )
    grid = [(name, mask, seed) for name in weights for mask in seeds for seed in seeds]
    whole = crossed and all(cell in values for cell in grid)
    asked = len(set(cells["mask"]))
    notes = [MISSING] if len(seeds) < asked or (crossed and not whole) else []
    row: dict[str, Any] = {
        "weights_n": len(weights),
        "masks_n": None if control else len(seeds),
        "seeds_n": len(seeds),
    }
    if len(seeds) < 2:
        return row | {"note": "; ".join([NO_SEEDS, *notes])}
    if whole:
        found = of_masks(_array(values, grid, (len(weights), len(seeds), len(seeds))))
        named = {"weights": found.weights, "mask": found.mask, "finetuning": found.finetuning}
    else:
        diagonal = [(name, seed, seed) for name in weights for seed in seeds]
        found = of_seeds(_array(values, diagonal, (len(weights), len(seeds))))
        named = {
            "weights": found.weights,
            "finetuning" if control else "mask_and_finetuning": found.finetuning,
        }
        notes = [*([] if control or crossed else [NOT_CROSSED]), *notes]
    if len(weights) == 1:
        notes = [NO_WEIGHTS, *notes]
    notes += [NEGATIVE] if any(value < -_ROUNDING for value in named.values()) else []
    return row | _shares(named) | {"note": "; ".join(notes)}


def _array(
    values: Mapping[tuple[str, int, int], float],
    cells: Iterable[tuple[str, int, int]],
    shape: tuple[int, ...],
) -> np.ndarray:
    return np.array([values[cell] for cell in cells]).reshape(shape)


def _shares(components: Mapping[str, float]) -> dict[str, float]:
    known = {
        name: value if value > _ROUNDING else 0.0
        for name, value in components.items()
        if not math.isnan(value)
    }
    total = math.fsum(known.values())
    # One component alone has no share of anything.
    told = len(known) > 1 and total > 0
    shares = {f"{name}_share": value / total for name, value in known.items()} if told else {}
    return {f"{name}_variance": value for name, value in known.items()} | shares
