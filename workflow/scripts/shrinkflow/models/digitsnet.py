"""DigitsNet: a small convolutional network for pictures as small as 8 x 8 digits."""

from __future__ import annotations

import torch
from torch import nn

from shrinkflow.models import MODELS, Shape, he_normal, require


class DigitsNet(nn.Module):
    """Convolutions of 32, 64 and 128 channels with batch-norm, average pooling, classifier."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(channels, 32, stride=2), *_block(32, 64, stride=2), *_block(64, 128, stride=1)
        )
        self.classifier = nn.Linear(128, classes)

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


@MODELS.adder("digitsnet")
def digitsnet(shape: Shape, classes: int) -> nn.Module:
    """Build a DigitsNet for pictures of at least 4 x 4."""
    require("digitsnet", shape, classes, side=4)
    return DigitsNet(shape[0], classes)
