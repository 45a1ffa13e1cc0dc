"""Optimal Brain Damage: second-order estimate of the loss a weight's removal costs (LeCun et al. 1990).

At a minimum of the loss, removing a weight w costs w^2 * h / 2, h being its entry on the diagonal of the
Hessian. Two ways to get the diagonal: the empirical Fisher information, and the Hessian by random probes.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from shrinkflow import derivatives, strategies
from shrinkflow.prunable import prunable
from shrinkflow.way import Way


@strategies.score(
    "obd-fisher",
    source="LeCun et al. 1990; Theis et al. 2018",
    cost="1000 pictures, forward and backward one by one",
    strategies={"obd-fisher": Way()},
)
def obd_fisher(
    model: nn.Module, data: strategies.Data, generator: torch.Generator, *, examples: int = 1000
) -> dict[str, torch.Tensor]:
    """Score each weight by w^2 * F / 2, F the mean over pictures of the squared gradient (Theis et al. 2018).

    `examples` pictures are drawn, or as many as there are. The gradient of each is that of its own
    cross-entropy: squares of a batch's mean gradient would be another, smaller quantity.
    """
    weights = prunable(model)
    squares = [torch.zeros_like(weight) for weight in weights.values()]
    seen = 0
    # One by one is faster than torch.func's vmap here, which would also import torch's compiler (2 s).
    for picture, label in data(examples, 1):
        loss = functional.cross_entropy(model(picture), label)
        gradients = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
        for square, gradient in zip(squares, gradients, strict=True):
            square.addcmul_(gradient, gradient)
        seen += 1
    return {
        name: weight.detach().square() * square / (2 * seen)
        for (name, weight), square in zip(weights.items(), squares, strict=True)
    }


@strategies.score(
    "obd-hessian",
    source="LeCun et al. 1990; Bekas et al. 2007; Yao et al. 2021",
    cost="8 batches, forward and backward, and 4 times twice backward",
    strategies={"obd-hessian": Way()},
    check=derivatives.check,
)
@derivatives.twice()
def obd_hessian(
    model: nn.Module,
    data: strategies.Data,
    generator: torch.Generator,
    *,
    batches: int = 8,
    batch_size: int = 64,
    probes: int = 4,
) -> dict[str, torch.Tensor]:
    """Score each weight by w^2 * |h| / 2, h an estimate of its entry on the diagonal of the Hessian.

    The diagonal is the mean of z * (H z) over random vectors z of +1 and -1, `probes` new ones for each batch
    (Bekas et al. 2007). H is of the mean cross-entropy over the pictures drawn. For one batch the variance
    of the estimate is the sum of the squares of the row of H off its diagonal, divided by `probes`.

    By chance, and away from a minimum, almost half of the entries come out negative. The absolute value is
    taken, as Yao et al. 2021 do: used as they are, they would put the largest weights first to go.
    """
    weights = prunable(model)
    diagonal = [torch.zeros_like(weight) for weight in weights.values()]
    seen = 0
    for pictures, labels in data(batches, batch_size):
        loss = functional.cross_entropy(model(pictures), labels, reduction="sum")
        gradients = torch.autograd.grad(
            loss, list(weights.values()), create_graph=True, materialize_grads=True
        )
        for _ in range(probes):
            signs = [
                (2.0 * torch.randint(2, weight.shape, generator=generator) - 1).to(weight)
                for weight in weights.values()
            ]
            along = torch.stack([(g * z).sum() for g, z in zip(gradients, signs, strict=True)]).sum()
            products = torch.autograd.grad(
                along, list(weights.values()), retain_graph=True, materialize_grads=True
            )
            for total, sign, product in zip(diagonal, signs, products, strict=True):
                total.addcmul_(sign, product)
        seen += len(labels)
    return {
        name: weight.detach().square() * total.abs() / (2 * seen * probes)
        for (name, weight), total in zip(weights.items(), diagonal, strict=True)
    }
