"""SGD and Adam by torch's own functional forms.

The optimizer classes import torch's compiler on first use, which takes longer than a short finetuning;
the functional forms they call do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from shrinkflow.recipe import Recipe

Step = Callable[[float], None]


def optimizer(parameters: Iterable[torch.nn.Parameter], recipe: Recipe) -> Step:
    """Return a function that makes one step with a given learning rate and drops the gradients.

    Every parameter must have a gradient by then. Adam: Kingma & Ba 2015, betas 0.9 and 0.999, eps 1e-8.
    SGD: momentum without dampening, Nesterov's form where the recipe says so.
    """
    weights = list(parameters)
    step = _adam(weights, recipe) if recipe.optimizer == "adam" else _sgd(weights, recipe)

    @torch.no_grad()
    def run(lr: float) -> None:
        step(lr)
        for weight in weights:
            weight.grad = None

    return run


def _gradients(weights: list[torch.nn.Parameter]) -> list[torch.Tensor]:
    return [weight.grad for weight in weights if weight.grad is not None]


def _sgd(weights: list[torch.nn.Parameter], recipe: Recipe) -> Step:
    buffers: list[torch.Tensor | None] = [None] * len(weights)

    def step(lr: float) -> None:
        sgd(
            list(weights),
            _gradients(weights),
            buffers,
            foreach=True,
            lr=lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
            dampening=0.0,
            maximize=False,
        )

    return step


def _adam(weights: list[torch.nn.Parameter], recipe: Recipe) -> Step:
    means = [torch.zeros_like(weight) for weight in weights]
    squares = [torch.zeros_like(weight) for weight in weights]
    steps = [torch.zeros(()) for _ in weights]

    def step(lr: float) -> None:
        adam(
            list(weights),
            _gradients(weights),
            means,
            squares,
            [],
            steps,
            foreach=True,
            lr=lr,
            weight_decay=recipe.weight_decay,
            beta1=0.9,
            beta2=0.999,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )

    return step
