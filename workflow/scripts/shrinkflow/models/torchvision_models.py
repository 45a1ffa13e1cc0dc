"""ImageNet networks as torchvision builds them, and the addresses of the weights it publishes for them.

ResNet: He et al. 2016. VGG: Simonyan & Zisserman 2015. MobileNetV2: Sandler et al. 2018. MobileNetV3: Howard
et al. 2019. EfficientNet: Tan & Le 2019. ViT: Dosovitskiy et al. 2021. Names of files and smallest pictures
are torchvision's (IMAGENET1K_V1), repeated here because importing it takes more than a second; a test
compares them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from shrinkflow.errors import UserError
from shrinkflow.importing import import_torchvision
from shrinkflow.models import MODELS, Shape, require
from shrinkflow.models.published import PUBLISHED, Published

_URL = "https://download.pytorch.org/models/{}"
# What torchvision's classifiers of VGG-16 expect, and the side of ViT's patches.
_POOLED, _PATCH = 7, 16
# The perceptrons of ViT had names where they now have numbers (vision#6053).
_RENAMED = (("mlp.linear_1.", "mlp.0."), ("mlp.linear_2.", "mlp.3."))
# Of the initial weights of ViT's classifier, as Touvron et al. 2021 (DeiT) draw all of its linear layers.
_DEVIATION = 0.02


@dataclass(frozen=True)
class _Kind:
    """A builder of torchvision, the smallest side it takes, its file of weights, the one side these fit."""

    builder: str
    smallest: int
    weights: str
    side: int | None = None


_KINDS = {
    "resnet18": _Kind("resnet18", 1, "resnet18-f37072fd.pth"),
    "resnet50": _Kind("resnet50", 1, "resnet50-0676ba61.pth"),
    "vgg16": _Kind("vgg16", 32, "vgg16-397923af.pth"),
    "mobilenet-v2": _Kind("mobilenet_v2", 1, "mobilenet_v2-b0353104.pth"),
    "mobilenet-v3-small": _Kind("mobilenet_v3_small", 1, "mobilenet_v3_small-047dcff4.pth"),
    "mobilenet-v3-large": _Kind("mobilenet_v3_large", 1, "mobilenet_v3_large-8738ca79.pth"),
    "efficientnet-b0": _Kind("efficientnet_b0", 1, "efficientnet_b0_rwightman-7f5810bc.pth"),
    "vit-b-16": _Kind("vit_b_16", _PATCH, "vit_b_16-c867db91.pth", side=224),
}


class Pooling(nn.Module):
    """Adaptive average pooling to 7 x 7; torch's own has no deterministic gradient on GPUs."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features [n, c, h, w] to [n, c, 7, 7]."""
        pooled: torch.Tensor = _Pooled.apply(features)
        return pooled


class _Pooled(torch.autograd.Function):
    """Two matrix products, as one operation: torch-pruning takes what it does not know to keep channels."""

    @staticmethod
    def forward(ctx: Any, features: torch.Tensor) -> torch.Tensor:
        ctx.sides = features.shape[2:]
        rows, columns = (_windows(side).to(features) for side in ctx.sides)
        return rows @ features @ columns.mT

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        rows, columns = (_windows(side).to(gradient) for side in ctx.sides)
        return rows.mT @ gradient @ columns


def _windows(side: int) -> torch.Tensor:
    """Return the matrix [7, side] that averages each of 7 windows, which may overlap by a pixel."""
    matrix = torch.zeros(_POOLED, side, device="cpu")
    for index in range(_POOLED):
        first, last = index * side // _POOLED, math.ceil((index + 1) * side / _POOLED)
        matrix[index, first:last] = 1 / (last - first)
    return matrix


def _build(name: str, shape: Shape, classes: int) -> nn.Module:
    kind = _KINDS[name]
    require(name, shape, classes, kind.smallest)
    channels, height, width = shape
    if channels != 3:
        raise UserError(f"model '{name}' needs colour pictures, of 3 channels, but these have {channels}")
    more: dict[str, Any] = {}
    if name == "vit-b-16":
        if height != width or height % _PATCH:
            raise UserError(
                f"model '{name}' cuts square pictures into patches of {_PATCH} x {_PATCH}, but these are "
                f"{height} x {width}; use a side that {_PATCH} divides"
            )
        more = {"image_size": height}
    models = import_torchvision().models
    network: nn.Module = getattr(models, kind.builder)(weights=None, num_classes=classes, **more)
    if name == "vit-b-16":
        # torchvision's zeros let no gradient through: no score could tell weights apart before training.
        nn.init.trunc_normal_(network.get_parameter("heads.head.weight"), std=_DEVIATION)
    if name == "vgg16":
        # Five poolings halve the sides; of pictures of 224 x 224 that leaves what the classifier expects.
        fits = (height // 32, width // 32) == (_POOLED, _POOLED)
        network.avgpool = nn.Identity() if fits else Pooling()
    return network


for _name, _kind in _KINDS.items():
    MODELS.register(_name, partial(_build, _name), __name__)
    PUBLISHED.register(
        _name,
        Published(
            name=_kind.weights,
            # torch.hub checks no more than the first eight digits of the hash, which the file's name ends in.
            checksum=f"sha256-prefix:{_kind.weights[-12:-4]}",
            url=_URL.format(_kind.weights),
            classes=1000,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            side=_kind.side,
            renamed=_RENAMED,
        ),
        __name__,
    )
