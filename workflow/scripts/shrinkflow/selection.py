"""Selection: from scores to masks. Exact counts, ties broken by position; shared by every strategy.

Numpy only, so that `prune` starts without torch. Whole filters are chosen elsewhere (`structure`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from shrinkflow import budget, conformance
from shrinkflow.errors import UserError
from shrinkflow.targets import Sizes, Target

Arrays = Mapping[str, np.ndarray]


def fraction(scores: Arrays, sizes: Sizes, target: Target) -> float:
    """Return which part of the cost of the tensors that are pruned may stay, in (0, 1].

    Raises `UserError` where the ratio cannot be reached.
    """
    costs = _costs(scores, sizes, target)
    part = sum(scores[name].size * cost for name, cost in costs.items() if name not in target.way.exclude)
    total = sizes.macs if target.axis == budget.MACS else sizes.params
    return budget.fraction_to_keep(total, part, target.ratio, axis=target.axis)


def choose(
    scores: Arrays,
    sizes: Sizes,
    target: Target,
    kept: float,
    previous: Arrays | None = None,
    like: Arrays | None = None,
) -> dict[str, np.ndarray]:
    """Return masks (uint8, 1 = kept) by the way of a target.

    Args:
        scores: one array per prunable weight, in `named_parameters` order.
        sizes: of the model.
        target: the way, and what costs are counted; its ratio is not read.
        kept: the part of the cost to keep, from `fraction` or, within a schedule, more.
        previous: masks of an earlier round; what they pruned stays pruned.
        like: masks whose number of weights in every layer is taken over, for a scope `like:...`.
    """
    way = target.way
    pruned = {name: array for name, array in scores.items() if name not in way.exclude}
    if target.ratio == 1:
        chosen = {name: np.ones(array.shape, dtype=np.uint8) for name, array in pruned.items()}
    elif way.pattern:
        chosen = {name: pattern(array, *way.pattern, name) for name, array in pruned.items()}
    elif way.scope in conformance.SCOPES:
        chosen = conformance.select(pruned, kept, way.scope)
    else:
        axis = _costs(pruned, sizes, target) if target.axis == budget.MACS else None
        earlier = {name: previous[name] for name in pruned} if previous else None
        chosen = select(pruned, kept, "like" if way.like else way.scope, earlier, costs=axis, like=like)
    return {
        name: chosen[name] if name in chosen else np.ones(array.shape, dtype=np.uint8)
        for name, array in scores.items()
    }


def select(
    scores: Arrays,
    fraction: float,
    scope: str,
    previous: Arrays | None = None,
    *,
    costs: Mapping[str, int] | None = None,
    like: Arrays | None = None,
) -> dict[str, np.ndarray]:
    """Return masks (uint8, 1 = kept) that keep the entries with the highest scores.

    Args:
        scores: one array per prunable weight, in `named_parameters` order; higher is kept first.
        fraction: the part of the cost of all entries to keep, in (0, 1].
        scope: "global" ranks all layers in one pool of n entries, "layer" each layer by itself; a pool
            keeps exactly `round(fraction * n)`. "erk" gives every layer a share of its own (see
            `erk_counts`), "like" as many entries as `like` has there. Equal scores: the lower position is
            kept, positions counted along the flattened arrays, layers in the order given.
        previous: masks of an earlier round; what they pruned stays pruned.
        costs: what an entry of each tensor costs; 1 where left out. A global pool then keeps the best
            entries that cost no more together than their part.
        like: masks, for the scope "like".

    Raises:
        UserError: scores that are not finite, or an earlier mask with fewer entries left than asked for.
    """
    for name, array in scores.items():
        if not np.isfinite(array).all():
            raise UserError(f"the scores of '{name}' are not all finite: the strategy cannot rank it")
    if scope == "global":
        return _pool(scores, fraction, previous, costs)
    if scope == "layer":
        counts = {name: round(fraction * array.size) for name, array in scores.items()}
    elif scope == "erk":
        alive = {name: int(np.count_nonzero(mask)) for name, mask in (previous or {}).items()}
        counts = erk_counts({name: array.shape for name, array in scores.items()}, fraction, costs, alive)
    elif scope == "like" and like is not None:
        counts = {name: int(np.count_nonzero(like[name])) for name in scores}
    else:
        raise UserError(f"unknown scope '{scope}'")
    return {
        name: _keep(array, count, previous[name] if previous else None, f"'{name}'")
        for (name, array), count in zip(scores.items(), counts.values(), strict=True)
    }


def erk_counts(
    shapes: Mapping[str, tuple[int, ...]],
    fraction: float,
    costs: Mapping[str, int] | None = None,
    alive: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Return how many entries each layer keeps by the Erdos-Renyi kernel (Evci et al. 2020).

    Densities are proportional to (n_in + n_out + k_h + k_w) / (n_in n_out k_h k_w), none above 1: what a
    layer cannot take goes to the others. Without `costs` the counts add up to `round(fraction * n)` exactly,
    by largest remainders. These may hand a layer one entry more at a smaller fraction, so where an earlier
    round left `alive` entries, no layer is given more.
    """
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    raw = {name: sum(shape) / sizes[name] for name, shape in shapes.items()}
    weight = {name: sizes[name] * (costs[name] if costs else 1) for name in shapes}
    left = fraction * sum(weight.values())
    density: dict[str, float] = {}
    # The layers with the highest raw density are the first to be full.
    for name in sorted(shapes, key=lambda name: -raw[name]):
        rest = sum(raw[other] * weight[other] for other in shapes if other not in density)
        density[name] = min(1.0, raw[name] * left / rest) if rest else 1.0
        left -= density[name] * weight[name]
    exact = {name: density[name] * sizes[name] for name in shapes}
    if costs:
        return {name: max(1, round(value)) for name, value in exact.items()}
    counts = {name: int(value + 1e-9) for name, value in exact.items()}
    missing = round(fraction * sum(sizes.values())) - sum(counts.values())
    room = alive or sizes
    order = sorted(shapes, key=lambda name: counts[name] - exact[name])
    while missing > 0 and (able := [name for name in order if counts[name] < room[name]]):
        for name in able[:missing]:
            counts[name] += 1
        missing -= len(able)
    return counts


def pattern(scores: np.ndarray, n: int, m: int, name: str = "a layer") -> np.ndarray:
    """Return the mask that keeps the `n` highest of every `m` successive input channels.

    Groups run along the input channels of one output at one place of the kernel (Mishra et al. 2021), as
    sparse tensor cores want them. Equal scores: the first are kept. Raises `UserError` where `m` does not
    divide the number of input channels.
    """
    inputs = scores.shape[1]
    if inputs % m:
        raise UserError(
            f"{n}:{m} does not fit '{name}', whose {inputs} inputs {m} does not divide; exclude it"
        )
    last = np.moveaxis(scores, 1, -1)
    groups = last.reshape(-1, m)
    best = np.argsort(-groups, axis=1, kind="stable")[:, :n]
    kept = np.zeros(groups.shape, dtype=np.uint8)
    np.put_along_axis(kept, best, 1, axis=1)
    return np.ascontiguousarray(np.moveaxis(kept.reshape(last.shape), -1, 1))


def collapsed(masks: Arrays) -> list[str]:
    """Return the names of layers of which no weight is left: the network passes no signal there."""
    return [name for name, mask in masks.items() if not mask.any() and not name.endswith("bias")]


def _costs(scores: Arrays, sizes: Sizes, target: Target) -> dict[str, int]:
    if target.axis == budget.PARAMETERS:
        return dict.fromkeys(scores, 1)
    return {name: sizes.uses[name] for name in scores}


def _pool(
    scores: Arrays, fraction: float, previous: Arrays | None, costs: Mapping[str, int] | None
) -> dict[str, np.ndarray]:
    """Rank all layers together."""
    flat = np.concatenate([array.ravel() for array in scores.values()])
    alive = np.concatenate([previous[name].ravel() for name in scores]) if previous else None
    if costs is None:
        count = round(fraction * flat.size)
    else:
        each = np.concatenate([np.full(array.size, costs[name]) for name, array in scores.items()])
        ranks = np.argsort(-flat, kind="stable")
        ranks = ranks[alive[ranks] != 0] if alive is not None else ranks
        count = int(np.searchsorted(np.cumsum(each[ranks]), fraction * each.sum(), side="right"))
    kept = _keep(flat, count, alive, f"'{next(iter(scores))}'{' and others' if len(scores) > 1 else ''}")
    parts = np.split(kept, np.cumsum([array.size for array in scores.values()])[:-1])
    return {name: part.reshape(scores[name].shape) for name, part in zip(scores, parts, strict=True)}


def _keep(scores: np.ndarray, count: int, previous: np.ndarray | None, name: str) -> np.ndarray:
    """Return the mask of the `count` highest scores among those that an earlier round left."""
    flat = scores.ravel()
    candidates = np.arange(flat.size) if previous is None else np.flatnonzero(previous)
    if count > candidates.size:
        raise UserError(
            f"cannot keep {count} of the {flat.size} weights in {name}: an earlier round left "
            f"{candidates.size}"
        )
    kept = np.zeros(flat.size, dtype=np.uint8)
    kept[candidates[_highest(flat[candidates], count)]] = 1
    return kept.reshape(scores.shape)


def _highest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the sorted indices of the `count` highest values, the first ones among equals."""
    if count == 0:
        return np.empty(0, dtype=np.int64)
    threshold = np.partition(values, values.size - count)[values.size - count]
    above = np.flatnonzero(values > threshold)
    equal = np.flatnonzero(values == threshold)[: count - above.size]
    return np.sort(np.concatenate([above, equal]))
