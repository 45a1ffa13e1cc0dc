"""Selection: from scores to masks. Exact counts, ties broken by position; shared by every strategy.

Numpy only, so that `prune` starts without torch.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from shrinkflow.errors import UserError

Arrays = Mapping[str, np.ndarray]

SCOPES = ("global", "layer")


def select(
    scores: Arrays, fraction: float, scope: str, previous: Arrays | None = None
) -> dict[str, np.ndarray]:
    """Return masks (uint8, 1 = kept) that keep the `fraction` of the entries with the highest scores.

    Args:
        scores: one array per prunable weight, in `named_parameters` order; higher is kept first.
        fraction: the part of all entries to keep, in (0, 1].
        scope: "global" ranks all layers in one pool of n entries, "layer" each layer by itself; a pool
            keeps exactly `round(fraction * n)`. Equal scores: the lower position is kept, positions
            counted along the flattened arrays, layers in the order given.
        previous: masks of an earlier round; what they pruned stays pruned.

    Raises:
        UserError: scores that are not finite, or an earlier mask with fewer entries left than asked for.
    """
    for name, array in scores.items():
        if not np.isfinite(array).all():
            raise UserError(f"the scores of '{name}' are not all finite: the strategy cannot rank it")
    if scope == "global":
        pools = [list(scores)]
    elif scope == "layer":
        pools = [[name] for name in scores]
    else:
        raise UserError(f"unknown scope '{scope}'; known: {', '.join(SCOPES)}")
    return {name: mask for pool in pools for name, mask in _pool(pool, scores, fraction, previous).items()}


def _pool(
    names: list[str], scores: Arrays, fraction: float, previous: Arrays | None
) -> dict[str, np.ndarray]:
    flat = np.concatenate([scores[name].ravel() for name in names])
    alive = (
        np.ones(flat.size, dtype=bool)
        if previous is None
        else np.concatenate([previous[name].ravel() for name in names]).astype(bool)
    )
    count = round(fraction * flat.size)
    kept = np.zeros(flat.size, dtype=np.uint8)
    candidates = np.flatnonzero(alive)
    if count > candidates.size:
        raise UserError(
            f"cannot keep {count} of the {flat.size} weights in '{names[0]}'"
            f"{' and others' if len(names) > 1 else ''}: an earlier round left {candidates.size}"
        )
    kept[candidates[_highest(flat[candidates], count)]] = 1
    sizes = np.cumsum([scores[name].size for name in names])[:-1]
    parts = np.split(kept, sizes)
    return {name: part.reshape(scores[name].shape) for name, part in zip(names, parts, strict=True)}


def _highest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the sorted indices of the `count` highest values, the first ones among equals."""
    if count == 0:
        return np.empty(0, dtype=np.int64)
    threshold = np.partition(values, values.size - count)[values.size - count]
    above = np.flatnonzero(values > threshold)
    equal = np.flatnonzero(values == threshold)[: count - above.size]
    return np.sort(np.concatenate([above, equal]))


def collapsed(masks: Arrays) -> list[str]:
    """Return the names of layers of which nothing is left: the network passes no signal there."""
    return [name for name, mask in masks.items() if not mask.any()]
