"""MnistNet: the small network for MNIST of ShrinkBench (Blalock et al. 2020), after LeNet-5."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from shrinkflow.models import MODELS, Shape, require


class MnistNet(nn.Module):
    """Two convolutions of 5 x 5 with max-pooling, one hidden linear layer, classifier.

    Returns logits where ShrinkBench's returns their log-softmax; the cross-entropy is the same.
    """

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.conv1 = nn.Conv2d(channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * _left(height) * _left(width), 500)
        self.fc2 = nn.Linear(500, classes)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return logits [n, classes] for pictures [n, channels, height, width]."""
        features = functional.max_pool2d(functional.relu(self.conv1(pictures)), 2)
        features = functional.max_pool2d(functional.relu(self.conv2(features)), 2)
        logits: torch.Tensor = self.fc2(functional.relu(self.fc1(features.flatten(1))))
        return logits


def _left(side: int) -> int:
    """Return what two unpadded 5 x 5 convolutions, each halved by pooling, leave of a side."""
    return ((side - 4) // 2 - 4) // 2


@MODELS.adder("mnistnet")
def mnistnet(shape: Shape, classes: int) -> nn.Module:
    """Build a MnistNet for pictures of at least 16 x 16, of any number of channels."""
    require("mnistnet", shape, classes, side=16)
    return MnistNet(shape, classes)
