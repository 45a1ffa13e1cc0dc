"""CIFAR ResNets with parameter-free shortcuts: ResNet-20, 32, 44, 56 and 110.

He, Zhang, Ren, Sun: "Deep Residual Learning for Image Recognition" (2016), section 4.2, option A.
Parameter names are those of github.com/akamaster/pytorch_resnet_cifar10, so that its weights fit.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional

from shrinkflow.models import MODELS, Shape, he_normal, require


class Block(nn.Module):
    """Two 3 x 3 convolutions with batch-norm, added to the shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self._stride = stride
        self._padding = (outputs - inputs) // 2

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features [n, inputs, h, w] to [n, outputs, h / stride, w / stride], rounded up."""
        shortcut = features[:, :, :: self._stride, :: self._stride]
        if self._padding:
            # The new channels are zeros, half of them before the old ones, half after.
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, self._padding, self._padding))
        inner = functional.relu(self.bn1(self.conv1(features)))
        return functional.relu(self.bn2(self.conv2(inner)) + shortcut)


class ResNet(nn.Module):
    """Three stages, of `blocks` blocks each and 16, 32 and 64 channels."""

    def __init__(self, blocks: int, channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(blocks, 16, 16, stride=1)
        self.layer2 = _stage(blocks, 16, 32, stride=2)
        self.layer3 = _stage(blocks, 32, 64, stride=2)
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                he_normal(module.weight)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return logits [n, classes] for pictures [n, channels, height, width]."""
        features = functional.relu(self.bn1(self.conv1(pictures)))
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: torch.Tensor = self.linear(features.mean(dim=(2, 3)))
        return logits


def _stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    first = Block(inputs, outputs, stride)
    return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))


def _resnet(depth: int, shape: Shape, classes: int) -> nn.Module:
    require(f"resnet{depth}", shape, classes, side=4)
    return ResNet((depth - 2) // 6, shape[0], classes)


for _depth in (20, 32, 44, 56, 110):
    MODELS.register(f"resnet{_depth}", partial(_resnet, _depth), __name__)
