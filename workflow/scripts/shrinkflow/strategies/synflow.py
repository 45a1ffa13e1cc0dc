"""SynFlow: prune before training, without data, and never a whole layer (Tanaka et al. 2020)."""

from __future__ import annotations

import copy

import torch
from torch import nn

from shrinkflow import strategies
from shrinkflow.errors import UserError
from shrinkflow.prunable import prunable
from shrinkflow.way import Way


def _check(model: nn.Module, _pictures: torch.Tensor | None = None) -> None:
    for name, module in model.named_modules():
        # ReLU6 is a Hardtanh. Where its input is large, as it is here, no gradient passes it.
        if isinstance(module, nn.Hardtanh | nn.Hardsigmoid | nn.Sigmoid | nn.Tanh):
            raise UserError(
                f"score 'synflow' makes signals grow from layer to layer, but '{name}' "
                f"({type(module).__name__}) saturates and stops the flow; use another score, or another model"
            )


@strategies.score(
    "synflow",
    source="Tanaka et al. 2020",
    cost="100 rounds of 1 picture, forward and backward",
    strategies={"synflow": Way(start="initialisation", rounds=100)},
    check=_check,
)
def synflow(model: nn.Module, data: strategies.Data, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Score each weight by |w * dR/dw|: the synaptic flow through it, in one round.

    R is the sum of the outputs for one picture of ones, of the network with the absolute values of all its
    parameters and of batch-norm's statistics, which are used, not measured: as in the authors' code. Of the
    data only a picture's shape is used. A pruned weight is 0 and scores 0.

    R grows with every layer, so it is computed in double precision, and the scores are rescaled together so
    that the largest is 2^126. That keeps their order for 75 decades in the float32 they are stored in;
    what is smaller still becomes 0.

    Raises `UserError` for a network whose activations saturate.
    """
    _check(model)
    pictures, _ = next(iter(data(1, 1)))
    absolute = copy.deepcopy(model).double()
    with torch.no_grad():
        for value in absolute.state_dict().values():
            value.abs_()
    weights = prunable(absolute)
    flow = absolute(torch.ones_like(pictures, dtype=torch.float64)).sum()
    gradients = torch.autograd.grad(flow, list(weights.values()), materialize_grads=True)
    scores = [
        (weight * part).detach().abs() for weight, part in zip(weights.values(), gradients, strict=True)
    ]
    largest = max(score.max().item() for score in scores)
    return {
        name: (score / (largest or 1.0) * 2.0**126).float()
        for name, score in zip(weights, scores, strict=True)
    }
