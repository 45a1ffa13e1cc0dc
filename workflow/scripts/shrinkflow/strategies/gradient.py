"""Gradient magnitude: first-order estimate of the loss a weight's removal costs.

Mozer & Smolensky 1989; Molchanov et al. 2017; as in Blalock et al. 2020, from one batch by default.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from shrinkflow import strategies
from shrinkflow.prunable import prunable
from shrinkflow.way import Way


@strategies.score(
    "gradient-magnitude",
    source="Mozer & Smolensky 1989; Molchanov et al. 2017",
    cost="1 batch, forward and backward",
    strategies={
        "global-gradient-magnitude": Way(),
        "layerwise-gradient-magnitude": Way(scope="layer"),
    },
)
def gradient_magnitude(
    model: nn.Module,
    data: strategies.Data,
    generator: torch.Generator,
    *,
    batches: int = 1,
    batch_size: int = 64,
) -> dict[str, torch.Tensor]:
    """Score each weight by |w * g|, g the gradient of the mean cross-entropy over the pictures drawn."""
    weights = prunable(model)
    seen = 0
    model.zero_grad()
    for pictures, labels in data(batches, batch_size):
        functional.cross_entropy(model(pictures), labels, reduction="sum").backward()
        seen += len(labels)
    return {
        name: (weight.detach() * weight.grad / seen).abs()
        for name, weight in weights.items()
        if weight.grad is not None
    }
