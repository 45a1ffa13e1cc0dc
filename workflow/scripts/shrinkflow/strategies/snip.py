"""SNIP: prune before training what the loss hardly feels (Lee, Ajanthan & Torr 2019)."""

from __future__ import annotations

import torch
from torch import nn

from shrinkflow import strategies
from shrinkflow.strategies.gradient import gradient_magnitude
from shrinkflow.way import Way


@strategies.score(
    "snip",
    source="Lee et al. 2019",
    cost="1 batch, forward and backward",
    strategies={"snip": Way(start="initialisation")},
)
def snip(
    model: nn.Module,
    data: strategies.Data,
    generator: torch.Generator,
    *,
    batches: int = 1,
    batch_size: int = 128,
) -> dict[str, torch.Tensor]:
    """Score each weight by |w * g|, divided by the sum over all prunable weights (equations 5 and 6).

    g is the gradient of the mean cross-entropy. One batch of 128 pictures is what the paper uses for
    CIFAR-10. The paper's sensitivity is the derivative by a mask c at c = 1, which is w * g. The division
    changes no order: it makes the scores of several networks comparable. Batch-norm uses its statistics,
    which at initialisation change nothing (mean 0, variance 1), as in the code of Tanaka et al. 2020.
    """
    scores = gradient_magnitude(model, data, generator, batches=batches, batch_size=batch_size)
    total = torch.stack([score.double().sum() for score in scores.values()]).sum().item()
    # Without any gradient, as when a layer is gone, all scores are 0 and stay it.
    return {name: score / (total or 1.0) for name, score in scores.items()}
