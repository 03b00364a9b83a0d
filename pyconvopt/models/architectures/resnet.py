"""Residual networks and their kin: ResNet, ResNeXt, Wide ResNet.

A block adds what its convolutions find to its input: y = relu(x + f(x)). Where the size changes,
x goes through a strided 1×1 convolution. Parameter names and shapes are torchvision's.

Sources: He et al. 2016, "Deep Residual Learning for Image Recognition"; Xie et al. 2017,
"Aggregated Residual Transformations" (ResNeXt); Zagoruyko and Komodakis 2016, "Wide Residual
Networks".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyconvopt import nn as pco_nn
from pyconvopt.models.architectures.blocks import initialize
from pyconvopt.nn import ConvNormAct


class BasicBlock(nn.Module):
    """Two 3×3 convolutions."""

    expansion = 1

    def __init__(self, in_channels: int, planes: int, stride: int, groups: int, width: int) -> None:
        super().__init__()
        if groups != 1 or width != 64:
            raise ValueError("a basic block has neither groups nor another width")
        self.conv1 = pco_nn.Conv2d(in_channels, planes, 3, stride, padding=1, bias=False)
        self.bn1 = pco_nn.BatchNorm2d(planes)
        self.relu = pco_nn.ReLU(inplace=True)
        self.conv2 = pco_nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = pco_nn.BatchNorm2d(planes)
        self.downsample = shortcut(in_channels, planes, stride)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """A 3×3 convolution between two 1×1 ones; the stride is the middle one's."""

    expansion = 4

    def __init__(self, in_channels: int, planes: int, stride: int, groups: int, width: int) -> None:
        super().__init__()
        inner, outer = planes * width // 64 * groups, planes * self.expansion
        self.conv1 = pco_nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn1 = pco_nn.BatchNorm2d(inner)
        self.conv2 = pco_nn.Conv2d(inner, inner, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = pco_nn.BatchNorm2d(inner)
        self.conv3 = pco_nn.Conv2d(inner, outer, 1, bias=False)
        self.bn3 = pco_nn.BatchNorm2d(outer)
        self.relu = pco_nn.ReLU(inplace=True)
        self.downsample = shortcut(in_channels, outer, stride)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """What brings a block's input to its output's size; None where it has it."""
    if stride == 1 and in_channels == out_channels:
        return None
    return ConvNormAct(in_channels, out_channels, 1, stride, activation_layer=None)


class ResNet(nn.Module):
    """A stem, four stages of blocks, the mean over the map, a linear layer.

    Args: block, blocks (of each stage), num_classes, in_channels, small_images (the stem is a
    3×3 convolution without stride and pool, for images of 28 or 32 pixels), groups and
    width_per_group (of bottlenecks).
    Shapes: (N, in_channels, H, W) to (N, num_classes).
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: Sequence[int],
        num_classes: int = 1000,
        in_channels: int = 3,
        small_images: bool = False,
        groups: int = 1,
        width_per_group: int = 64,
    ) -> None:
        super().__init__()
        size, stride = (3, 1) if small_images else (7, 2)
        self.conv1 = pco_nn.Conv2d(in_channels, 64, size, stride, size // 2, bias=False)
        self.bn1 = pco_nn.BatchNorm2d(64)
        self.relu = pco_nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small_images else pco_nn.MaxPool2d(3, 2, padding=1)
        channels, stages = 64, []
        for stage, count in enumerate(blocks):
            planes = 64 << stage
            made = []
            for number in range(count):
                stride = 2 if stage and not number else 1
                made.append(block(channels, planes, stride, groups, width_per_group))
                channels = planes * block.expansion
            stages.append(nn.Sequential(*made))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = pco_nn.AdaptiveAvgPool2d(1)
        self.fc = pco_nn.Linear(channels, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet18(num_classes: int = 1000, in_channels: int = 3, small_images: bool = False) -> ResNet:
    """ResNet-18; 11.7 million parameters for 1,000 classes.

    Args: num_classes (1000), in_channels (3), small_images (False; True for images of 28 or 32
    pixels: a 3×3 stem, no first pool).
    Shapes: (N, in_channels, H, W) to logits (N, num_classes). torchvision's weights load.

    >>> model = resnet18(num_classes=10, in_channels=1, small_images=True)
    >>> model(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])

    Source: He et al. 2016, "Deep Residual Learning for Image Recognition".
    """
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, in_channels, small_images)


def resnet34(num_classes: int = 1000, in_channels: int = 3, small_images: bool = False) -> ResNet:
    """ResNet-34; as `resnet18`, 21.8 million parameters."""
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes, in_channels, small_images)


def resnet50(num_classes: int = 1000, in_channels: int = 3, small_images: bool = False) -> ResNet:
    """ResNet-50, of bottlenecks whose stride is the 3×3 convolution's; 25.6 million parameters.

    Args, shapes and source: as `resnet18`.
    """
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels, small_images)


def resnext50_32x4d(
    num_classes: int = 1000, in_channels: int = 3, small_images: bool = False
) -> ResNet:
    """ResNeXt-50: bottlenecks of 32 groups of 4 channels; 25.0 million parameters.

    Args and shapes: as `resnet18`.

    Source: Xie et al. 2017, "Aggregated Residual Transformations for Deep Neural Networks".
    """
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels, small_images, 32, 4)


def wide_resnet50_2(
    num_classes: int = 1000, in_channels: int = 3, small_images: bool = False
) -> ResNet:
    """ResNet-50 with bottlenecks twice as wide; 68.9 million parameters.

    Args and shapes: as `resnet18`.

    Source: Zagoruyko and Komodakis 2016, "Wide Residual Networks".
    """
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels, small_images, 1, 128)
