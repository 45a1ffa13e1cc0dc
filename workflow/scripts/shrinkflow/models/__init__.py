"""Models: a registry of builders, and the one way to build a model from a name.

A builder is called with the shape of a picture (channels, height, width) and the number of
classes, draws its initial weights from torch's global generator, and raises `UserError` for a shape
it cannot take. A model maps normalised pictures [n, channels, height, width] to logits [n, classes]
(no softmax); its classifier is its last `Linear`, and all its buffers belong to the state dict.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from shrinkflow import seeds
from shrinkflow.errors import UserError
from shrinkflow.registry import Registry

Shape = tuple[int, int, int]
Builder = Callable[[Shape, int], nn.Module]

MODELS: Registry[Builder] = Registry("model", "shrinkflow.models")


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
    unknown name or a shape the model cannot take.
    """
    builder = MODELS[name]
    if seed is None:
        with torch.device("meta"):
            return builder(shape, classes)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would reseed the generators of accelerators too.
        torch.default_generator.manual_seed(seeds.torch_seed(seed, purpose))
        return builder(shape, classes)


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
