"""Scores of whole filters, for structured pruning: one value per output channel of a layer.

A filter is what makes one output channel: a row of the weight, flattened. How the filters of several layers
are compared, and which go together, is written in `structure`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from shrinkflow import strategies
from shrinkflow.errors import UserError
from shrinkflow.prunable import prunable
from shrinkflow.way import FILTER, SOFT, Way


@strategies.score(
    "filter-l1",
    source="Li et al. 2017",
    cost="nothing",
    strategies={
        "filter-l1": Way(granularity=FILTER),
        "layerwise-filter-l1": Way(granularity=FILTER, scope="layer"),
    },
    granularity=FILTER,
)
def filter_l1(model: nn.Module, data: strategies.Data, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Score each filter by the sum of |w|."""
    return {name: rows.abs().sum(dim=1) for name, rows in _filters(model).items()}


@strategies.score(
    "filter-l2",
    source="He et al. 2018 (soft filter pruning)",
    cost="nothing",
    strategies={
        "filter-l2": Way(granularity=FILTER),
        "soft-filter-pruning": Way(granularity=FILTER, scope="layer", schedule=SOFT),
    },
    granularity=FILTER,
)
def filter_l2(model: nn.Module, data: strategies.Data, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Score each filter by its Euclidean norm."""
    return {name: rows.norm(dim=1) for name, rows in _filters(model).items()}


@strategies.score(
    "fpgm",
    source="He et al. 2019 (filter pruning via geometric median)",
    cost="distances between all filters of a layer",
    strategies={"fpgm": Way(granularity=FILTER)},
    granularity=FILTER,
)
def fpgm(model: nn.Module, data: strategies.Data, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Score each filter by the sum of its Euclidean distances to all filters of its layer.

    The filter with the least sum lies nearest to their geometric median: the others can stand in for it.
    """
    # In float64, for distances are found from products, in which equal filters would not quite cancel.
    return {
        name: torch.cdist(rows.double(), rows.double()).sum(dim=1) for name, rows in _filters(model).items()
    }


def _scales(model: nn.Module, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return |gamma| of the batch-norm behind each prunable layer; `UserError` where there is none."""
    weights = prunable(model)
    names = {id(weight): name for name, weight in weights.items()}
    outputs: list[tuple[str, torch.Tensor]] = []
    found: dict[str, torch.Tensor] = {}

    def leave(layer: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        outputs.append((names[id(layer.weight)], output))

    def enter(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        for name, output in outputs:
            if output is inputs[0] and norm.affine:
                found[name] = norm.get_parameter("weight").detach().abs()

    hooks = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and id(module.weight) in names:
            hooks.append(module.register_forward_hook(leave))
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(enter))
    with torch.no_grad():
        model(pictures)
    for hook in hooks:
        hook.remove()
    for name in weights:
        if name not in found:
            raise UserError(
                f"score 'filter-bn-scale' needs a batch-norm directly behind every layer, but '{name}' has "
                "none; use 'filter-l1' instead, or another model"
            )
    return {name: found[name] for name in weights}


@strategies.score(
    "filter-bn-scale",
    source="Liu et al. 2017 (network slimming)",
    cost="1 picture, forward",
    strategies={"filter-bn-scale": Way(granularity=FILTER)},
    granularity=FILTER,
    comparable=True,
    check=_scales,
)
def filter_bn_scale(
    model: nn.Module, data: strategies.Data, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Score each filter by |gamma|, the scale of the batch-norm that takes its output.

    The paper trains with an L1 penalty on gamma first; here the network is taken as it is.

    Raises:
        UserError: no batch-norm follows directly upon a prunable layer.
    """
    pictures, _ = next(iter(data(1, 1)))
    return _scales(model, pictures)


@strategies.score(
    "filter-taylor",
    source="Molchanov et al. 2019",
    cost="10 batches, forward and backward",
    strategies={"filter-taylor": Way(granularity=FILTER)},
    granularity=FILTER,
    comparable=True,
)
def filter_taylor(
    model: nn.Module,
    data: strategies.Data,
    generator: torch.Generator,
    *,
    batches: int = 10,
    batch_size: int = 64,
) -> dict[str, torch.Tensor]:
    """Score each filter by (the sum of w * g)^2, g the gradient of a batch's mean loss; mean over batches.

    The square of the first-order estimate of how the loss changes without the filter. Of the paper's two
    forms this is the one by weights, which needs no batch-norm; the other sums over the scale and shift of
    the batch-norm behind the layer. With batch-norm in train mode the sum would always be zero, for then the
    loss does not depend on a filter's scale.
    """
    weights = prunable(model)
    total = {name: torch.zeros_like(rows[:, 0]) for name, rows in _filters(model).items()}
    seen = 0
    for pictures, labels in data(batches, batch_size):
        model.zero_grad()
        functional.cross_entropy(model(pictures), labels).backward()
        seen += 1
        for name, weight in weights.items():
            if weight.grad is not None:
                total[name] += (weight.detach() * weight.grad).flatten(1).sum(dim=1) ** 2
    return {name: values / seen for name, values in total.items()}


@strategies.score(
    "filter-random",
    source="control",
    cost="one draw per filter",
    strategies={"filter-random": Way(granularity=FILTER)},
    granularity=FILTER,
)
def filter_random(
    model: nn.Module, data: strategies.Data, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Score each filter by one independent uniform draw from [0, 1)."""
    return {name: torch.rand(len(weight), generator=generator) for name, weight in prunable(model).items()}


def _filters(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the filters of every prunable weight as rows, [out, entries]."""
    return {name: weight.detach().flatten(1) for name, weight in prunable(model).items()}
