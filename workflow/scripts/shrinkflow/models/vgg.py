"""CIFAR-VGG: VGG-16 with batch-norm and dropout for 32 x 32 pictures, in several widths.

Simonyan & Zisserman 2015, configuration D, in Zagoruyko's version for CIFAR-10
(torch.ch/blog/2015/07/30/cifar.html), which ShrinkBench (Blalock et al. 2020) uses too: the
convolutions have biases, and the parameter names are ShrinkBench's.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

import torch
from torch import nn

from shrinkflow.models import MODELS, Shape, at_width, he_normal, require

# For each stage: channels, number of convolutions, dropout after each convolution but the last.
_STAGES = ((64, 2, 0.3), (128, 2, 0.4), (256, 3, 0.4), (512, 3, 0.4), (512, 3, 0.4))


class CifarVGG(nn.Module):
    """Thirteen 3 x 3 convolutions in five max-pooled stages, and a classifier with dropout.

    `width` multiplies the channels of the convolutions and of the hidden layer; it must leave them whole.
    """

    def __init__(self, shape: Shape, classes: int, width: float = 1) -> None:
        super().__init__()
        inputs, rows, columns = shape
        layers: list[nn.Module] = []
        hidden = int(width * 512)
        for channels, convolutions, dropout in _STAGES:
            outputs = int(width * channels)
            for index in range(convolutions):
                layers.append(_convolution(inputs, outputs))
                if index < convolutions - 1:
                    layers.append(nn.Dropout(dropout))
                inputs = outputs
            # Rounding up keeps one value where nothing is left to halve.
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
            rows, columns = (rows + 1) // 2, (columns + 1) // 2
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(inputs * rows * columns, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(hidden, classes),
        )

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return logits [n, classes] for pictures [n, channels, height, width]."""
        logits: torch.Tensor = self.classifier(self.features(pictures).flatten(1))
        return logits


def _convolution(inputs: int, outputs: int) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
    he_normal(convolution.weight, mode="fan_out")
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    norm = nn.BatchNorm2d(outputs, eps=1e-3)
    return nn.Sequential(OrderedDict(conv=convolution, bn=norm, relu=nn.ReLU()))


def _cifar_vgg(width: float, shape: Shape, classes: int) -> nn.Module:
    # Larger pictures than 32 x 32 widen the first linear layer.
    require(at_width("cifar-vgg", width), shape, classes, side=1)
    return CifarVGG(shape, classes, width)


for _width in (1, 0.75, 0.5, 0.25):
    MODELS.register(at_width("cifar-vgg", _width), partial(_cifar_vgg, _width), __name__)
