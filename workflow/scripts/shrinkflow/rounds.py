"""Scores in several rounds, the network pruned a little further between them, without training."""

from __future__ import annotations

import copy

import numpy as np
from torch import nn

from shrinkflow import scoring, selection
from shrinkflow.scoring import Scorer
from shrinkflow.targets import Sizes, Target
from shrinkflow.training import Split


def scores(
    chosen: Scorer,
    model: nn.Module,
    split: Split,
    seed: int,
    sizes: Sizes,
    target: Target,
) -> dict[str, np.ndarray]:
    """Return the scores of the last of several rounds, those pruned before it ranked below all others.

    Round k of n prunes the network to the fraction f^(k/n) of its prunable weights, f being what the target
    leaves (Tanaka et al. 2020), and the next round scores what is left. Nothing is trained between.
    """
    rounds = target.way.rounds
    masks: dict[str, np.ndarray] | None = None
    for k in range(1, rounds + 1):
        pruned = copy.deepcopy(model)
        if masks:
            scoring.apply(pruned, masks)
        found = scoring.score(chosen, pruned, split, seed, *((k,) if rounds > 1 else ()))
        if masks:
            lowest = min(float(array.min()) for array in found.values())
            below = np.float32(lowest - max(1.0, abs(lowest)))
            found = {name: np.where(masks[name] != 0, array, below) for name, array in found.items()}
        if target.ratio == 1:
            break
        if k < rounds:
            kept = selection.fraction(found, sizes, target) ** (k / rounds)
            masks = selection.choose(found, sizes, target, kept, masks)
    return found
