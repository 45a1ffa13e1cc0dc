"""Compression ratios a model can reach, in plain numbers.

`total` is the number of all parameters of a model (weights, biases, batch-norm), `prunable` the
number of those that may be pruned.
"""

from __future__ import annotations

import math

from shrinkflow.errors import UserError


def reachable(total: int, prunable: int) -> float:
    """Return the largest possible compression ratio: that with one prunable weight left."""
    if not 0 <= prunable <= total or total == 0:
        raise ValueError(f"{prunable} of {total} parameters cannot be prunable")
    return total / (total - max(prunable - 1, 0))


def fraction_to_keep(total: int, prunable: int, ratio: float, *, model: str = "the model") -> float:
    """Return the fraction, in (0, 1], of prunable weights to keep for a compression ratio.

    The fraction is (total / ratio - (total - prunable)) / prunable. Raises `UserError`, naming
    `model`, the ratio and the largest possible one, where that would keep more than all of the
    weights or fewer than one.
    """
    largest = reachable(total, prunable)
    if not 1 <= ratio <= largest:
        # Rounded down, because the ratio the message names has to work.
        hint = math.floor(largest * 100) / 100
        raise UserError(
            f"compression ratio {ratio:g} is impossible for {model}, of whose {total} parameters "
            f"{prunable} may be pruned; choose a ratio from 1 to {hint:.12g}"
        )
    if prunable == 0:
        return 1.0
    return (total / ratio - (total - prunable)) / prunable
