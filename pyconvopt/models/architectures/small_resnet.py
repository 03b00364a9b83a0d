"""Residual networks made for small images: three stages, the first at full size.

`resnet_cifar` is the network of the ResNet paper's section on CIFAR-10, `wide_resnet` the one with
fewer and wider blocks, norm and ReLU before each convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyconvopt import nn as pco_nn
from pyconvopt.models.architectures.blocks import initialize
from pyconvopt.models.architectures.resnet import BasicBlock


def blocks_of(depth: int, rest: int, convolutions: int, name: str) -> int:
    """The blocks of each of three stages in a network of that depth."""
    blocks, left = divmod(depth - rest, 3 * convolutions)
    if blocks < 1 or left:
        raise ValueError(
            f"{name} has a depth of {3 * convolutions}·n + {rest}, such as "
            f"{6 * convolutions + rest}, got {depth}"
        )
    return blocks


class CifarResNet(nn.Module):
    """A 3×3 stem, three stages of basic blocks at 1, 1/2 and 1/4 of the size, a linear layer."""

    def __init__(self, blocks: int, width: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = pco_nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = pco_nn.BatchNorm2d(width)
        self.relu = pco_nn.ReLU(inplace=True)
        channels, stages = width, []
        for stage in range(3):
            made = []
            for number in range(blocks):
                stride = 2 if stage and not number else 1
                made.append(BasicBlock(channels, width << stage, stride, 1, 64))
                channels = width << stage
            stages.append(nn.Sequential(*made))
        self.layer1, self.layer2, self.layer3 = stages
        self.avgpool = pco_nn.AdaptiveAvgPool2d(1)
        self.fc = pco_nn.Linear(channels, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet_cifar(
    depth: int = 20, num_classes: int = 10, in_channels: int = 3, width: int = 16
) -> CifarResNet:
    """The ResNet for 32×32 images: depth 6·n + 2, 16, 32 and 64 channels.

    Args: depth (20: 0.27 million parameters), num_classes (10), in_channels (3), width (16: the
    channels of the first stage).
    Shapes: (N, in_channels, H, W) to logits (N, num_classes).

    Errors: ValueError for a depth that is not 6·n + 2.

    >>> sum(weight.numel() for weight in resnet_cifar(20).parameters())
    272474

    Source: He et al. 2016, "Deep Residual Learning", section 4.2; the shortcuts are its option B.
    """
    return CifarResNet(blocks_of(depth, 2, 2, "resnet_cifar"), width, num_classes, in_channels)


class WideBlock(nn.Module):
    """Norm, ReLU, convolution, twice, with dropout between; the sum is left as it is."""

    def __init__(self, in_channels: int, channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = pco_nn.BatchNorm2d(in_channels)
        self.conv1 = pco_nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = pco_nn.BatchNorm2d(channels)
        self.dropout = pco_nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = pco_nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.relu = pco_nn.ReLU(inplace=True)
        changes = stride != 1 or in_channels != channels
        self.shortcut = (
            pco_nn.Conv2d(in_channels, channels, 1, stride, bias=False) if changes else None
        )

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        begun = self.relu(self.bn1(x))
        y = self.dropout(self.relu(self.bn2(self.conv1(begun))))
        return self.conv2(y) + (x if self.shortcut is None else self.shortcut(begun))


class WideResNet(nn.Module):
    """A 3×3 stem, three stages of wide blocks, norm and ReLU, a linear layer."""

    def __init__(
        self, blocks: int, width: int, num_classes: int, in_channels: int, dropout: float
    ) -> None:
        super().__init__()
        self.conv1 = pco_nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        channels, stages = 16, []
        for stage in range(3):
            made = []
            for number in range(blocks):
                wide = (16 << stage) * width
                stride = 2 if stage and not number else 1
                made.append(WideBlock(channels, wide, stride, dropout))
                channels = wide
            stages.append(nn.Sequential(*made))
        self.layer1, self.layer2, self.layer3 = stages
        self.bn = pco_nn.BatchNorm2d(channels)
        self.relu = pco_nn.ReLU(inplace=True)
        self.avgpool = pco_nn.AdaptiveAvgPool2d(1)
        self.fc = pco_nn.Linear(channels, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.fc(torch.flatten(self.avgpool(self.relu(self.bn(x))), 1))


def wide_resnet(
    depth: int = 28,
    width: int = 10,
    num_classes: int = 10,
    in_channels: int = 3,
    dropout: float = 0.0,
) -> WideResNet:
    """The Wide ResNet for 32×32 images, WRN-depth-width.

    Args: depth (28, 6·n + 4), width (10: the channels are 16, 32 and 64 times it), num_classes
    (10), in_channels (3), dropout (0: the share of values dropped within a block).
    Shapes: (N, in_channels, H, W) to logits (N, num_classes).

    Errors: ValueError for a depth that is not 6·n + 4.

    >>> sum(weight.numel() for weight in wide_resnet(16, 2).parameters())
    691674

    Source: Zagoruyko and Komodakis 2016, "Wide Residual Networks".
    """
    blocks = blocks_of(depth, 4, 2, "wide_resnet")
    return WideResNet(blocks, width, num_classes, in_channels, dropout)
