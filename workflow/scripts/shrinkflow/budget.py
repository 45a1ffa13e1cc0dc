"""Compression ratios a model can reach, in plain numbers.

A ratio is of the whole model: `total` is the number of all its parameters (weights, biases, batch-norm), or
of all its MACs; `prunable` the number of those that may be pruned.
"""

from __future__ import annotations

import math

from shrinkflow.errors import UserError

PARAMETERS, MACS = "parameters", "macs"
AXES = {PARAMETERS: "parameters", MACS: "MACs"}


def reachable(total: int, prunable: int) -> float:
    """Return the largest possible compression ratio: that with one prunable weight left."""
    if not 0 <= prunable <= total or total == 0:
        raise ValueError(f"{prunable} of {total} cannot be prunable")
    return total / (total - max(prunable - 1, 0))


def fraction_to_keep(
    total: int, prunable: int, ratio: float, *, model: str = "the model", axis: str = PARAMETERS
) -> float:
    """Return the fraction, in (0, 1], of what is prunable to keep for a ratio.

    The fraction is (total / ratio - (total - prunable)) / prunable. Raises `UserError`, naming `model`, the
    ratio and the largest possible one, where that would keep more than all or fewer than one.
    """
    largest = reachable(total, prunable)
    if not 1 <= ratio <= largest:
        raise impossible(ratio, largest, f"{model}, of whose {total} {AXES[axis]} {prunable} may be pruned")
    if prunable == 0:
        return 1.0
    return (total / ratio - (total - prunable)) / prunable


def impossible(ratio: float, largest: float, model: str) -> UserError:
    """Return the error for a ratio that a model cannot reach."""
    # Rounded down, because the ratio the message names has to work.
    hint = math.floor(largest * 100) / 100
    return UserError(
        f"compression ratio {ratio:g} is impossible for {model}; choose a ratio from 1 to {hint:.12g}"
    )
