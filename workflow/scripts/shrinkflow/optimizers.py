"""SGD and Adam by torch's own functional forms.

The optimizer classes import torch's compiler on first use, which takes longer than a short finetuning;
the functional forms they call do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from shrinkflow.recipe import Recipe

# For each parameter, in order, what an optimizer remembers of it; None before the first step.
_Memory = dict[str, list[torch.Tensor | None]]


@dataclass(frozen=True)
class Step:
    """An optimizer: called with a learning rate, it makes one step and drops the gradients."""

    weights: list[torch.nn.Parameter]
    memory: _Memory
    step: Callable[[float], None]

    @torch.no_grad()
    def __call__(self, lr: float) -> None:
        """Make a step."""
        self.step(lr)
        for weight in self.weights:
            weight.grad = None

    def state(self) -> dict[str, torch.Tensor]:
        """Return what the optimizer remembers (moments, momentum, numbers of steps), by name."""
        return {
            f"{name}/{index}": value
            for name, values in self.memory.items()
            for index, value in enumerate(values)
            if value is not None
        }

    @torch.no_grad()
    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Remember what `state` returned, laid out in memory as the weights are."""
        for key, value in state.items():
            name, _, place = key.partition("/")
            index = int(place)
            remembered = self.memory[name][index]
            if remembered is None:
                remembered = self.memory[name][index] = torch.empty_like(self.weights[index])
            remembered.copy_(value)


def optimizer(parameters: Iterable[torch.nn.Parameter], recipe: Recipe) -> Step:
    """Return an optimizer of these parameters by the recipe.

    Every parameter must have a gradient by then. Adam: Kingma & Ba 2015, betas 0.9 and 0.999, eps 1e-8.
    SGD: momentum without dampening, Nesterov's form where the recipe says so.
    """
    weights = list(parameters)
    return _adam(weights, recipe) if recipe.optimizer == "adam" else _sgd(weights, recipe)


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

    return Step(weights, {"momentum": buffers}, step)


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

    return Step(weights, {"means": [*means], "squares": [*squares], "steps": [*steps]}, step)
