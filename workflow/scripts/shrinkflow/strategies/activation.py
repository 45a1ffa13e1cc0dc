"""Activation magnitude: a weight matters as much as it is large and its inputs are strong (ShrinkBench)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from shrinkflow import strategies
from shrinkflow.errors import UserError
from shrinkflow.prunable import prunable
from shrinkflow.way import Way


def _check(model: nn.Module, _pictures: torch.Tensor | None = None) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            raise UserError(
                "score 'activation-magnitude' has to see what layers multiply, but "
                f"'{name}' (nn.MultiheadAttention) does not show it; use another score, or another model"
            )


@strategies.score(
    "activation-magnitude",
    source="Blalock et al. 2020 (ShrinkBench)",
    cost="1 batch, forward",
    strategies={
        "global-activation-magnitude": Way(),
        "layerwise-activation-magnitude": Way(scope="layer"),
    },
    check=_check,
)
@torch.no_grad()
def activation_magnitude(
    model: nn.Module,
    data: strategies.Data,
    generator: torch.Generator,
    *,
    batches: int = 1,
    batch_size: int = 64,
    average_first: bool = False,
) -> dict[str, torch.Tensor]:
    """Score each weight by |w| times the mean size of what it multiplies.

    For a Conv2d that is the L1 norm of the input channel over space, divided by height x width; for a
    Linear the absolute value of the input feature; both averaged over the pictures drawn. A layer that is
    used several times counts all its uses.

    The code of ShrinkBench averages the activations of the batch before it takes the norm: the same after
    a ReLU, but where inputs have both signs, as normalised pictures do, they cancel, the more the larger
    the batch. `average_first` does as that code, batch by batch.

    Raises `UserError` for a network with nn.MultiheadAttention, which calls none of its layers.
    """
    _check(model)
    names = {id(weight): name for name, weight in prunable(model).items()}
    layers = [
        module
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and id(module.weight) in names
    ]
    scores: dict[str, torch.Tensor] = {}

    def record(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        features = inputs[0].movedim(-1, 1) if isinstance(layer, nn.Linear) else inputs[0]
        features = features.reshape(*features.shape[:2], -1)
        sizes = features.mean(0).abs() if average_first else features.abs().mean(0)
        groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
        # [inputs] -> [outputs, inputs of the output's group]
        strength = sizes.mean(-1).view(groups, -1).repeat_interleave(len(layer.weight) // groups, 0)
        strength = strength.view(*strength.shape, *[1] * (layer.weight.dim() - 2))
        name = names[id(layer.weight)]
        scores[name] = scores.get(name, 0) + layer.weight.abs() * strength * len(features)

    hooks = [layer.register_forward_pre_hook(record) for layer in layers]
    seen = 0
    for pictures, _ in data(batches, batch_size):
        model(pictures)
        seen += len(pictures)
    for hook in hooks:
        hook.remove()
    return {name: score / seen for name, score in scores.items()}
