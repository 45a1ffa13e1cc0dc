"""DigitsNet: a small convolutional network for pictures as small as 8 x 8 digits, in several widths."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from shrinkflow.models import MODELS, Shape, at_width, he_normal, require


class DigitsNet(nn.Module):
    """Convolutions of 32, 64 and 128 channels with batch-norm, average pooling, classifier.

    `width` multiplies the channels; it must leave them whole.
    """

    def __init__(self, channels: int, classes: int, width: float = 1) -> None:
        super().__init__()
        first, second, third = (int(width * outputs) for outputs in (32, 64, 128))
        self.features = nn.Sequential(
            *_block(channels, first, stride=2),
            *_block(first, second, stride=2),
            *_block(second, third, stride=1),
        )
        self.classifier = nn.Linear(third, classes)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return logits [n, classes] for pictures [n, channels, height, width]."""
        features: torch.Tensor = self.features(pictures)
        logits: torch.Tensor = self.classifier(features.mean(dim=(2, 3)))
        return logits


def _block(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, ...]:
    # Batch-norm takes the place of a bias.
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    he_normal(convolution.weight)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU()


def _digitsnet(width: float, shape: Shape, classes: int) -> nn.Module:
    require(at_width("digitsnet", width), shape, classes, side=4)
    return DigitsNet(shape[0], classes, width)


for _width in (1, 0.75, 0.5, 0.25, 0.125):
    MODELS.register(at_width("digitsnet", _width), partial(_digitsnet, _width), __name__)
