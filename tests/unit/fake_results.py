"""Made-up tables that look like those of a real study, for the tests of tables and figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
SCORES = (
    "activation",
    "fisher",
    "gradient",
    "lamp",
    "magnitude",
    "random",
    "snip",
    "synflow",
    "taylor",
    "wood",
)
FORTY = [f"{scope}-{score}" for scope in ("erk", "global", "iterative", "layerwise") for score in SCORES]
FORTY[FORTY.index("erk-random")] = "random"
# Strategies that are measured against another control than "dense".
REWOUND = {
    "lottery-ticket": "dense-weight-rewinding-0",
    "rewind-magnitude": "dense-weight-rewinding-0",
    "snip": "dense-initialisation",
}
RATIOS = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
PAIRS = (("cifar10", "resnet20"), ("cifar10", "cifar-vgg"), ("digits", "digitsnet"))
# Parameters and MACs.
SIZES = {
    "resnet56": (853_018, 125_485_696),
    "resnet32": (464_154, 68_862_592),
    "resnet20": (269_722, 40_551_040),
    "resnet20-x0.75": (152_182, 22_893_024),
    "resnet14": (172_506, 26_395_264),
    "resnet8": (75_290, 12_239_488),
    "resnet20-x0.5": (68_050, 10_248_512),
    "resnet20-x0.25": (17_326, 2_617_504),
    "digitsnet": (94_186, 374_528),
    "digitsnet-x0.5": (24_058, 95_104),
    "digitsnet-x0.25": (6_274, 24_512),
}


def rows(
    pairs: Sequence[tuple[str, str]] = PAIRS[:1],
    weights: Sequence[str] = ("A",),
    strategies: Sequence[str] = STRATEGIES,
    ratios: Sequence[float] = RATIOS,
    seeds: int = 3,
    controls: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Return the cells of a study and its controls, as `tables.read_curves` would.

    `controls` names those of the strategies that have another than "dense".
    """
    controls = controls or {}
    generator = np.random.default_rng(0)
    found = []
    for pair, (dataset, model) in enumerate(pairs):
        for place, name in enumerate(weights):
            start = 0.93 + 0.02 * min(pair, 2) - 0.015 * place
            for seed in range(seeds):
                cell = {"dataset": dataset, "model": model, "weights": name, "seed": seed}
                used = {controls[strategy] for strategy in strategies if strategy in controls}
                for place_of_control, control in enumerate(["dense", *sorted(used)]):
                    noise = float(generator.normal(0, 0.002)) - 0.004 * place_of_control
                    own = {"strategy": control, "ratio": 1.0, "control": control}
                    found.append(_row(cell | own, start + noise, 1, 1))
                for rank, strategy in enumerate(strategies):
                    for ratio in ratios:
                        drop = (
                            0.012
                            * (rank * 7 % 12 + 1 if rank > 12 else rank + 1)
                            * math.log2(ratio) ** 2
                            / 6
                            * (1 + 0.3 * pair)
                        )
                        noise = float(generator.normal(0, 0.002 * math.log2(ratio + 1)))
                        top1 = min(1.0, max(0.1, start + 0.004 - drop + noise))
                        speedup = ratio ** (0.95 - 0.08 * (rank % 5)) * (1 + noise)
                        control = controls.get(strategy, "dense")
                        own = {"strategy": strategy, "ratio": ratio, "control": control}
                        found.append(_row(cell | own, top1, ratio, speedup))
    return pd.DataFrame(found)[tables.CURVE_COLUMNS].astype(
        {"best_epoch": "Int64", "best_test_epoch": "Int64"}
    )


def _row(
    cell: dict[str, Any],
    top1: float,
    compression: float,
    speedup: float,
    size: tuple[int, int] = SIZES["resnet20"],
) -> dict[str, Any]:
    params, macs = size
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
        "best_test_top1": round(top1 + 0.002, 4),
        "best_test_epoch": 25,
    }


def study(**arguments: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (results, summary) of `rows(**arguments)`."""
    results = tables.results(rows(**arguments))
    return results, tables.summary(results)


def family(
    models: Mapping[str, Sequence[str]],
    dataset: str = "cifar10",
    ratios: Sequence[float] = RATIOS,
    seeds: int = 3,
    weights: Sequence[str] = ("A",),
) -> pd.DataFrame:
    """Return the cells of dense networks of `SIZES`, and of those pruned: {model: its strategies}.

    Smaller networks are worse, pruned ones better than dense ones of their size up to a point.
    """
    generator = np.random.default_rng(1)
    found = []
    for model, strategies in models.items():
        for place, name in enumerate(weights):
            start = 0.95 - 0.4 * (SIZES[model][0] / 1000) ** -0.4 - 0.01 * place
            for seed in range(seeds):
                cell = {"dataset": dataset, "model": model, "weights": name, "seed": seed}
                for rank, strategy in enumerate(["dense", *strategies]):
                    for ratio in (1.0,) if strategy == "dense" else ratios:
                        fall = 0.004 * rank * math.log2(ratio) ** 2 / 3
                        top1 = max(0.1, start - fall + float(generator.normal(0, 0.003)))
                        own = {"strategy": strategy, "ratio": ratio, "control": "dense"}
                        speedup = ratio ** (0.95 - 0.1 * (rank % 4))
                        found.append(_row(cell | own, top1, ratio, speedup, SIZES[model]))
    return pd.DataFrame(found)[tables.CURVE_COLUMNS].astype(
        {"best_epoch": "Int64", "best_test_epoch": "Int64"}
    )
