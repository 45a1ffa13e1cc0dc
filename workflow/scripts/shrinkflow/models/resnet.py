"""CIFAR ResNets with parameter-free shortcuts: depths 8 to 110, and narrower ones.

He, Zhang, Ren, Sun: "Deep Residual Learning for Image Recognition" (2016), section 4.2, option A. The
paper has depths 20, 32, 44, 56 and 110; smaller and narrower networks are what a pruned one competes with.
Parameter names are those of github.com/akamaster/pytorch_resnet_cifar10, so that its weights fit.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional

from shrinkflow.models import MODELS, Shape, at_width, he_normal, require


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
    """Three stages, of `blocks` blocks each and 16, 32 and 64 channels.

    `width` multiplies the channels; it must leave them even, for half of the new ones come before the old.
    """

    def __init__(self, blocks: int, channels: int, classes: int, width: float = 1) -> None:
        super().__init__()
        first, second, third = (int(width * outputs) for outputs in (16, 32, 64))
        self.conv1 = nn.Conv2d(channels, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _stage(blocks, first, first, stride=1)
        self.layer2 = _stage(blocks, first, second, stride=2)
        self.layer3 = _stage(blocks, second, third, stride=2)
        self.linear = nn.Linear(third, classes)
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


def _resnet(depth: int, width: float, shape: Shape, classes: int) -> nn.Module:
    require(at_width(f"resnet{depth}", width), shape, classes, side=4)
    return ResNet((depth - 2) // 6, shape[0], classes, width)


for _depth in (8, 14, 20, 26, 32, 44, 56, 110):
    for _width in (1, 0.75, 0.5, 0.25) if _depth <= 56 else (1,):
        _name = at_width(f"resnet{_depth}", _width)
        MODELS.register(_name, partial(_resnet, _depth, _width), __name__)
