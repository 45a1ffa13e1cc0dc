"""GraSP: prune before training so that gradients still flow (Wang, Zhang & Grosse 2020)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from shrinkflow import derivatives, strategies
from shrinkflow.prunable import prunable
from shrinkflow.prunable import weights as layer_weights
from shrinkflow.way import Way


@strategies.score(
    "grasp",
    source="Wang et al. 2020",
    cost="1 batch, forward and backward, and once more twice backward",
    strategies={"grasp": Way(start="initialisation")},
    check=derivatives.check,
)
@derivatives.twice()
def grasp(
    model: nn.Module,
    data: strategies.Data,
    generator: torch.Generator,
    *,
    batches: int = 1,
    batch_size: int = 128,
    temperature: float = 200.0,
) -> dict[str, torch.Tensor]:
    """Score each weight by w * (H g), signed: the gradient flow that goes if the weight goes.

    The gradient flow is g'g: by how much an infinitesimal step lowers the loss. To first order, removing
    weight w (a change of -w) changes it by 2 S, S = -w * (H g) (equation 8). The paper removes the weights
    with the largest S, whose removal lowers the flow least or even raises it; higher means keep here, so
    the score is -S.

    g and H are of the mean cross-entropy of the logits divided by `temperature`, over the weights of all
    Conv2d and Linear, the classifier's too, as in the authors' code. Pictures are drawn as for every other
    score, not ten of each class. Batch-norm normalises by the batch, as in the authors' code, and its
    statistics do not move: by those of a fresh network (mean 0, variance 1) signals would grow from layer to
    layer, and so would what a weight seems to do for the gradients of a network that trains otherwise.
    """
    weights = list(layer_weights(model).values())
    scored = prunable(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.training, module.track_running_stats = True, False

    def gradients(pictures: torch.Tensor, labels: torch.Tensor, graph: bool) -> tuple[torch.Tensor, ...]:
        loss = functional.cross_entropy(model(pictures) / temperature, labels, reduction="sum")
        return torch.autograd.grad(loss, weights, create_graph=graph, materialize_grads=True)

    gradient = [torch.zeros_like(weight) for weight in weights]
    seen = 0
    for pictures, labels in data(batches, batch_size):
        for total, part in zip(gradient, gradients(pictures, labels, graph=False), strict=True):
            total += part
        seen += len(labels)

    products = [torch.zeros_like(weight) for weight in scored.values()]
    for pictures, labels in data(batches, batch_size):
        parts = gradients(pictures, labels, graph=True)
        # The gradient of g'v for a fixed v is H v.
        flow = torch.stack([(v * g).sum() for v, g in zip(gradient, parts, strict=True)]).sum()
        found = torch.autograd.grad(flow, list(scored.values()), materialize_grads=True)
        for total, part in zip(products, found, strict=True):
            total += part
    return {
        name: weight.detach() * product / seen**2
        for (name, weight), product in zip(scored.items(), products, strict=True)
    }
