"""Magnitude pruning: small weights matter least (Janowsky 1989; Han et al. 2015)."""

from __future__ import annotations

import torch
from torch import nn

from shrinkflow import strategies
from shrinkflow.prunable import prunable


@strategies.score(
    "magnitude",
    source="Janowsky 1989; Han et al. 2015",
    strategies={"global-magnitude": "global", "layerwise-magnitude": "layer"},
)
def magnitude(model: nn.Module, data: strategies.Data, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Score each weight by |w|."""
    return {name: weight.detach().abs() for name, weight in prunable(model).items()}
