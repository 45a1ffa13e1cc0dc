"""Magnitude pruning: small weights matter least (Janowsky 1989; Han et al. 2015)."""

from __future__ import annotations

import torch
from torch import nn

from shrinkflow import strategies
from shrinkflow.prunable import prunable
from shrinkflow.way import GRADUAL, STEPS, Way


@strategies.score(
    "magnitude",
    source="Janowsky 1989; Han et al. 2015",
    cost="nothing",
    strategies={
        "global-magnitude": Way(),
        "layerwise-magnitude": Way(scope="layer"),
        "erk-magnitude": Way(scope="erk"),
        "iterative-magnitude": Way(schedule="iterative"),
        "gradual-magnitude": Way(schedule=GRADUAL, rounds=STEPS),
        "lottery-ticket": Way(schedule="iterative", retraining="weight-rewinding"),
        "scratch-magnitude": Way(retraining="scratch"),
    },
)
def magnitude(model: nn.Module, data: strategies.Data, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Score each weight by |w|."""
    return {name: weight.detach().abs() for name, weight in prunable(model).items()}
