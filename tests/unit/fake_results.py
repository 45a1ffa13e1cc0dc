"""Made-up tables that look like those of a real study, for the tests of tables and figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from shrinkflow import tables

STRATEGIES = [
    "global-gradient",
    "global-magnitude",
    "layerwise-gradient",
    "layerwise-magnitude",
    "random",
]
TWELVE = [
    *STRATEGIES,
    *[
        "activation-magnitude",
        "erk-magnitude",
        "grasp",
        "lamp",
        "layerwise-random",
        "snip",
        "synflow",
    ],
]
RATIOS = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
PAIRS = (("cifar10", "resnet20"), ("cifar10", "cifar-vgg"), ("digits", "digitsnet"))


def rows(
    pairs: Sequence[tuple[str, str]] = PAIRS[:1],
    weights: Sequence[str] = ("A",),
    strategies: Sequence[str] = STRATEGIES,
    ratios: Sequence[float] = RATIOS,
    seeds: int = 3,
) -> pd.DataFrame:
    """Return the cells of a study and its dense controls, as `tables.read_curves` would."""
    generator = np.random.default_rng(0)
    found = []
    for pair, (dataset, model) in enumerate(pairs):
        for place, name in enumerate(weights):
            start = 0.93 + 0.02 * min(pair, 2) - 0.015 * place
            for seed in range(seeds):
                cell = {"dataset": dataset, "model": model, "weights": name, "seed": seed}
                noise = float(generator.normal(0, 0.002))
                found.append(_row(cell | {"strategy": "dense", "ratio": 1.0}, start + noise, 1, 1))
                for rank, strategy in enumerate(strategies):
                    for ratio in ratios:
                        drop = 0.012 * (rank + 1) * math.log2(ratio) ** 2 / 6 * (1 + 0.3 * pair)
                        noise = float(generator.normal(0, 0.002 * math.log2(ratio + 1)))
                        top1 = min(1.0, max(0.1, start + 0.004 - drop + noise))
                        speedup = ratio ** (0.95 - 0.08 * (rank % 5)) * (1 + noise)
                        found.append(
                            _row(cell | {"strategy": strategy, "ratio": ratio}, top1, ratio, speedup)
                        )
    return pd.DataFrame(found)[tables.CURVE_COLUMNS].astype({"best_epoch": "Int64"})


def _row(cell: dict[str, Any], top1: float, compression: float, speedup: float) -> dict[str, Any]:
    params, macs = 269_722, 40_551_040
    return cell | {
        "compression": params / round(params / compression),
        "speedup": max(1.0, speedup),
        "params": params,
        "params_nonzero": round(params / compression),
        "macs": macs,
        "macs_nonzero": round(macs / max(1.0, speedup)),
        "top1": round(top1, 4),
        "top5": round(min(1.0, top1 + 0.05), 4),
        "loss": 2.3 * (1 - top1),
        "val_top1": round(top1 + 0.003, 4),
        "pruned_val_top1": round(top1 * 0.8, 4),
        "best_epoch": 27,
        "epochs": 30,
        "collapsed_layers": 0,
    }


def study(**arguments: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (results, summary) of `rows(**arguments)`."""
    results = tables.results(rows(**arguments))
    return results, tables.summary(results)
