"""ShrinkBench's scores, for its conformance mode: biases too, and one augmented batch in train mode.

Blalock et al. 2020. The same ideas as `magnitude`, `gradient` and `random`, as its code computes them. It
scores on the first batch of its training loader, of the size of the finetuning, by the network as it was
built, in train mode: batch-norm normalises by the batch, and dropout is on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from shrinkflow import conformance, strategies
from shrinkflow.errors import UserError
from shrinkflow.prunable import prunable
from shrinkflow.way import Way

_SOURCE = "Blalock et al. 2020 (ShrinkBench)"


def with_biases(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the prunable weights and the biases of the same layers, as `named_parameters` orders them."""
    weights = {id(weight) for weight in prunable(model).values()}
    biases = {
        id(layer.bias)
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and id(layer.weight) in weights
    }
    return {name: part for name, part in model.named_parameters() if id(part) in weights | biases}


@strategies.score(
    "shrinkbench-random",
    source=_SOURCE,
    cost="one draw per weight",
    strategies={"shrinkbench-random": Way(scope=conformance.DRAWS)},
)
def random(model: nn.Module, data: strategies.Data, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Give each weight and bias one independent uniform draw from [0, 1)."""
    return {name: torch.rand(part.shape, generator=generator) for name, part in with_biases(model).items()}


@strategies.score(
    "shrinkbench-magnitude",
    source=_SOURCE,
    cost="nothing",
    strategies={
        "shrinkbench-global-magnitude": Way(scope=conformance.GLOBAL),
        "shrinkbench-layerwise-magnitude": Way(scope=conformance.LAYER),
    },
)
def magnitude(model: nn.Module, data: strategies.Data, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Score each weight and bias by |w|."""
    return {name: part.detach().abs() for name, part in with_biases(model).items()}


@strategies.score(
    "shrinkbench-gradient-magnitude",
    source=_SOURCE,
    cost="1 batch, forward and backward",
    strategies={
        "shrinkbench-global-gradient-magnitude": Way(scope=conformance.GLOBAL),
        "shrinkbench-layerwise-gradient-magnitude": Way(scope=conformance.LAYER),
    },
)
def gradient_magnitude(
    model: nn.Module,
    data: strategies.Data,
    generator: torch.Generator,
    *,
    batch_size: int = 64,
    crop: int = 4,
    flip: bool = True,
) -> dict[str, torch.Tensor]:
    """Score each weight and bias by |w * g|, g the gradient of the mean cross-entropy of one batch.

    The batch is augmented: padded by `crop` pixels and cropped back, mirrored at random if `flip`. In train
    mode the bias of a convolution before batch-norm changes nothing, so its gradient is rounding alone.
    """
    parts = with_biases(model)
    model.zero_grad()
    with _train_mode(model, generator):
        for pictures, labels in data(1, batch_size, crop, flip):
            functional.cross_entropy(model(pictures.contiguous()), labels).backward()
    return {name: (part.detach() * part.grad).abs() for name, part in parts.items() if part.grad is not None}


@strategies.score(
    "shrinkbench-activation-magnitude",
    source=_SOURCE,
    cost="1 batch, forward",
    strategies={
        "shrinkbench-global-activation-magnitude": Way(scope=conformance.GLOBAL),
        "shrinkbench-layerwise-activation-magnitude": Way(scope=conformance.LAYER),
    },
)
def activation_magnitude(
    model: nn.Module,
    data: strategies.Data,
    generator: torch.Generator,
    *,
    batch_size: int = 64,
    crop: int = 4,
    flip: bool = True,
) -> dict[str, torch.Tensor]:
    """Score each weight by |w * a|, a the L1 norm of the layer's mean input over one batch.

    a is of the input channel that the weight reads, for a convolution divided by the H * W of its input. The
    mean over the batch is taken before the norm. A bias gets the mean of the a of all channels, in a
    convolution not divided by H * W: so ShrinkBench's code does, and a bias ranks H * W times too high.

    Raises:
        UserError: a convolution in groups, or a layer that one forward pass uses twice: ShrinkBench stops
            there too.
    """
    parts = with_biases(model)
    layers: dict[nn.Module, str] = {
        layer: name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and f"{name}.weight" in parts
    }
    inputs: dict[str, np.ndarray] = {}

    def record(layer: nn.Module, given: tuple[torch.Tensor, ...], _output: torch.Tensor) -> None:
        if layers[layer] in inputs:
            raise UserError(
                f"the network uses layer '{layers[layer]}' twice, which score "
                "'shrinkbench-activation-magnitude' cannot rank; leave its strategies out"
            )
        # Means in numpy, in its order of adding up: another rounding would move weights at the threshold.
        inputs[layers[layer]] = given[0].cpu().contiguous().numpy().mean(axis=0)

    hooks = [layer.register_forward_hook(record) for layer in layers]
    try:
        with torch.no_grad(), _train_mode(model, generator):
            for pictures, _labels in data(1, batch_size, crop, flip):
                model(pictures.contiguous())
    finally:
        for hook in hooks:
            hook.remove()
    scores: dict[str, torch.Tensor] = {}
    for name, mean in inputs.items():
        weight = parts[f"{name}.weight"].detach().cpu().contiguous().numpy()
        if weight.shape[1] != len(mean):
            raise UserError(
                f"the weights of layer '{name}' do not read all of its input channels, which score "
                "'shrinkbench-activation-magnitude' cannot rank; leave its strategies out"
            )
        norms = np.abs(mean).reshape(len(mean), -1).sum(axis=1)
        per_channel = norms / mean[0].size if weight.ndim == 4 else norms
        product = weight * per_channel.reshape(-1, *[1] * (weight.ndim - 2))
        scores[f"{name}.weight"] = torch.from_numpy(np.abs(product))
        if f"{name}.bias" in parts:
            bias = parts[f"{name}.bias"].detach().cpu().numpy()
            scores[f"{name}.bias"] = torch.from_numpy(np.abs(bias * norms.mean()))
    return {name: scores[name] for name in parts if name in scores}


def dropout_seed(generator: torch.Generator) -> int:
    """Draw the seed that torch's own generator gets for dropout, which takes no other."""
    return int(torch.randint(2**63 - 1, (), generator=generator))


@contextmanager
def _train_mode(model: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Put a model into train mode, dropout drawing from `generator`; torch's own one is put back.

    Weights are laid out as ShrinkBench leaves them, not channels last: convolutions add up in another order
    there, and dropout drops other values.
    """
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(dropout_seed(generator))
        model.to(memory_format=torch.contiguous_format).train()  # type: ignore[call-overload]
        yield
