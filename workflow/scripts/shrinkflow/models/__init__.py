"""Models: a registry of builders, a user's own ones in files of theirs, and the one way to build a model.

A model's name is one of the registry, or FILE:FUNCTION ("mine/net.py:build"): a function in a Python file of
the user's. A builder is called with the shape of a picture (channels, height, width) and the number of
classes, draws its initial weights from torch's global generator, and raises `UserError` for a shape
it cannot take. A model maps normalised pictures [n, channels, height, width] to logits [n, classes]
(no softmax); its classifier is its last `Linear`, and all its buffers belong to the state dict.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from shrinkflow import own, seeds
from shrinkflow.errors import UserError
from shrinkflow.registry import Registry

Shape = tuple[int, int, int]
Builder = Callable[[Shape, int], nn.Module]

MODELS: Registry[Builder] = Registry("model", "shrinkflow.models")
# What a user's own builder is called with.
ARGUMENTS = ("shape", "classes")


def build(
    name: str,
    shape: Shape,
    classes: int,
    seed: int | None,
    purpose: seeds.Purpose = seeds.Purpose.INITIALISATION,
) -> nn.Module:
    """Build a model with the initial weights of `seed` and a purpose; on the meta device if `seed` is None.

    A model on the meta device has shapes but no numbers: enough for counting, and for loading a
    checkpoint into. Neither way touches the state of torch's generators. Raises `UserError` for an
    unknown name, a shape the model cannot take, and whatever goes wrong in a user's own file.
    """
    builder = _builder(name)
    if seed is None:
        with torch.device("meta"):
            return builder(shape, classes)
    number = seeds.torch_seed(seed, purpose)

    def draw() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would reseed the generators of accelerators too.
            torch.default_generator.manual_seed(number)
            return builder(shape, classes)

    network = draw()
    if is_own(name):
        first, again = network.state_dict(), draw().state_dict()
        if first.keys() != again.keys() or not all(torch.equal(first[key], again[key]) for key in first):
            raise UserError(
                f"model '{name}' has other initial weights each time it is built with one seed; draw them "
                "from torch's global generator only"
            )
    return network


def is_own(name: str) -> bool:
    """Say whether a name is of a user's own model, FILE:FUNCTION."""
    return ":" in name


def file(name: str) -> Path:
    """Return the file that defines a model: what a fingerprint has to cover."""
    return Path(name.rpartition(":")[0]) if is_own(name) else MODELS.file(name)


def _builder(name: str) -> Builder:
    if not is_own(name):
        return MODELS[name]
    file, _, function = name.rpartition(":")
    make = own.load(file, function, ARGUMENTS)

    def builder(shape: Shape, classes: int) -> nn.Module:
        model = make(shape, classes)
        if not isinstance(model, nn.Module):
            kind = type(model).__name__
            raise UserError(f"function '{function}' in '{file}' must return a torch.nn.Module, not {kind}")
        return model

    return builder


def at_width(name: str, width: float) -> str:
    """Return what a network is called that has `width` times the channels: "resnet20-x0.5".

    The width multiplier of Howard et al. 2017 (MobileNets), by which Zagoruyko & Komodakis 2016 widened
    ResNets: it multiplies the channels of every layer, so parameters and MACs change by about its square.
    """
    return name if width == 1 else f"{name}-x{width:g}"


def he_normal(weight: torch.Tensor, mode: Literal["fan_in", "fan_out"] = "fan_in") -> None:
    """Fill a weight tensor with the normal initialisation of He et al. 2015, for ReLU networks."""
    # To fill nothing on the meta device, torch would import its compiler: more than a second.
    if not weight.is_meta:
        nn.init.kaiming_normal_(weight, mode=mode, nonlinearity="relu")


def require(model: str, shape: Shape, classes: int, side: int) -> None:
    """Raise `UserError` unless both sides of a picture are at least `side`, and counts positive."""
    channels, height, width = shape
    if min(height, width) < side:
        raise UserError(
            f"model '{model}' needs pictures of at least {side} x {side}, but these are "
            f"{height} x {width}; choose another model or data set"
        )
    if channels < 1 or classes < 2:
        raise UserError(
            f"model '{model}' needs at least one channel and two classes, but the data set has "
            f"{channels} and {classes}"
        )
