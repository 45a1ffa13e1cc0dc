"""LAMP: magnitude relative to the rest of the layer, which gives each layer its share (Lee et al. 2021)."""

from __future__ import annotations

import torch
from torch import nn

from shrinkflow import strategies
from shrinkflow.prunable import prunable
from shrinkflow.way import Way


@strategies.score("lamp", source="Lee et al. 2021", cost="nothing", strategies={"lamp": Way()})
def lamp(model: nn.Module, data: strategies.Data, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Score each weight by w^2 / the sum of the squares of all weights of its layer that are not smaller.

    The largest weight of every layer scores 1, so no layer is lost before all are down to one weight.
    Among weights of equal size the one at the lower position counts as larger (the paper sorts, and leaves
    open how): their scores differ, and selection keeps the same ones as it would by magnitude.
    """
    return {name: _relative(weight.detach()) for name, weight in prunable(model).items()}


def _relative(weight: torch.Tensor) -> torch.Tensor:
    # On the CPU, because sums along a tensor on a GPU are not deterministic.
    squares = weight.flatten().cpu().double().square()
    falling, order = squares.sort(descending=True, stable=True)
    scores = torch.empty_like(squares)
    # Where the largest weight is 0, so are all.
    scores[order] = falling / falling.cumsum(0).clamp(min=torch.finfo(torch.float64).tiny)
    return scores.view(weight.shape)
