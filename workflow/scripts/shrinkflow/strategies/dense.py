"""The control: nothing is pruned, ratio 1, finetuned with the same budget as everything else."""

from __future__ import annotations

import torch
from torch import nn

from shrinkflow import strategies
from shrinkflow.prunable import prunable
from shrinkflow.way import Way


@strategies.score("none", source="control", cost="nothing", strategies={strategies.CONTROL: Way()})
def none(model: nn.Module, data: strategies.Data, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Score every weight 0."""
    return {name: torch.zeros_like(weight) for name, weight in prunable(model).items()}
