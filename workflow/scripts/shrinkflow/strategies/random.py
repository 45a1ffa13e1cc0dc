"""Random scores: the control that every method has to beat."""

from __future__ import annotations

import torch
from torch import nn

from shrinkflow import strategies
from shrinkflow.prunable import prunable
from shrinkflow.way import Way


@strategies.score(
    "random",
    source="control",
    cost="a draw per weight",
    strategies={"random": Way(), "erk-random": Way(scope="erk")},
)
def random(model: nn.Module, data: strategies.Data, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Score each weight by one independent uniform draw from [0, 1)."""
    return {name: torch.rand(weight.shape, generator=generator) for name, weight in prunable(model).items()}
