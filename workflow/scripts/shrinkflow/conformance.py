"""ShrinkBench's rule of selection, so that numbers made by it compare (Blalock et al. 2020).

It differs from `selection` in three ways: a threshold decides and not a count, so ties at the threshold all
stay; biases of prunable layers are pruned too; random pruning keeps each entry by a draw of its own, so
that its ratio varies. The fraction to keep is that of `budget.fraction_to_keep`, biases counted among the
prunable. Written from the definition; nothing of its code is here.

Numpy only, so that `prune` starts without torch.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from shrinkflow.errors import UserError

GLOBAL, LAYER, DRAWS = "shrinkbench-global", "shrinkbench-layer", "shrinkbench-draws"
SCOPES = (GLOBAL, LAYER, DRAWS)


def select(scores: Mapping[str, np.ndarray], fraction: float, scope: str) -> dict[str, np.ndarray]:
    """Return masks (uint8, 1 = kept) as ShrinkBench does.

    Args:
        scores: one array per prunable weight and bias, of any shape.
        fraction: the part of all entries to keep, in (0, 1]; what is kept may differ, see the scopes.
        scope: "shrinkbench-global": entries below the quantile 1 - fraction of all scores together are
            pruned, the quantile being interpolated linearly between two scores; "shrinkbench-layer": the
            same for each array by itself, the bias of a layer apart from its weight; "shrinkbench-draws":
            the scores are uniform draws from [0, 1], and an entry stays where its draw is at most `fraction`.

    Raises:
        UserError: an unknown scope, a score that is not finite, a draw outside [0, 1].
    """
    if scope not in SCOPES:
        raise UserError(f"unknown scope '{scope}'; known: {', '.join(SCOPES)}")
    for name, array in scores.items():
        if not np.isfinite(array).all():
            raise UserError(f"the scores of '{name}' are not all finite: the strategy cannot rank it")
        if scope == DRAWS and not ((array >= 0) & (array <= 1)).all():
            raise UserError(
                f"scope '{DRAWS}' takes draws from 0 to 1, which the scores of '{name}' are not; "
                "use score 'shrinkbench-random'"
            )
    if scope == DRAWS:
        return {name: (array <= fraction).astype(np.uint8) for name, array in scores.items()}
    if scope == GLOBAL:
        everywhere = _threshold(np.concatenate([array.ravel() for array in scores.values()]), fraction)
        thresholds = dict.fromkeys(scores, everywhere)
    else:
        thresholds = {name: _threshold(array.ravel(), fraction) for name, array in scores.items()}
    return {name: (array >= thresholds[name]).astype(np.uint8) for name, array in scores.items()}


def _threshold(pool: np.ndarray, fraction: float) -> np.floating:
    # Given an array, every version of numpy takes the position among the scores in double precision; given a
    # float, some round it to theirs. The threshold is then rounded to theirs, as numpy 1 did to compare.
    quantile = np.quantile(pool, np.asarray(1 - fraction))
    threshold: np.floating = pool.dtype.type(quantile)
    return threshold
