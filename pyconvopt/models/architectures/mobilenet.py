"""MobileNets: inverted residuals, whose depthwise convolution works on an expanded map.

A block is a 1×1 convolution to more channels, a depthwise one, in version 3 squeeze and excitation,
and a 1×1 convolution back without activation. Parameter names and shapes are torchvision's.

Sources: Sandler et al. 2018, "MobileNetV2"; Howard et al. 2019, "Searching for MobileNetV3".
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from pyconvopt import nn as pco_nn
from pyconvopt.models.architectures.blocks import (
    MakeModule,
    divisible,
    initialize,
    pooled,
)
from pyconvopt.nn import ConvNormAct

conv_v2 = partial(ConvNormAct, activation_layer=nn.ReLU6)


class InvertedResidual(nn.Module):
    """Version 2's block: expand by a factor, depthwise 3×3, project; all ReLUs end at 6."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        begin = [conv_v2(in_channels, inner, 1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *begin,
            conv_v2(inner, inner, 3, stride, groups=inner),
            pco_nn.Conv2d(inner, channels, 1, bias=False),
            pco_nn.BatchNorm2d(channels),
        )
        self.is_residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x + self.conv(x) if self.is_residual else self.conv(x)


# Expansion, channels, blocks, stride of the first block.
V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNetV2(nn.Module):
    """A stem, seven stages of inverted residuals, a 1×1 convolution, a linear layer."""

    def __init__(
        self, num_classes: int, in_channels: int, small_images: bool, width: float, dropout: float
    ) -> None:
        super().__init__()
        channels = divisible(32 * width)
        last = divisible(1280 * max(1.0, width))
        stem = conv_v2(in_channels, channels, 3, 1 if small_images else 2)
        members: list[nn.Module] = [stem]
        for stage, (expansion, planes, blocks, stride) in enumerate(V2_STAGES):
            for number in range(blocks):
                wide = divisible(planes * width)
                strides = number == 0 and not (small_images and stage == 1)
                members.append(
                    InvertedResidual(channels, wide, stride if strides else 1, expansion)
                )
                channels = wide
        members.append(conv_v2(channels, last, 1))
        self.features = nn.Sequential(*members)
        self.classifier = nn.Sequential(pco_nn.Dropout(dropout), pco_nn.Linear(last, num_classes))
        initialize(self, linear_std=0.01)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.classifier(pooled(self.features(x)))


def mobilenet_v2(
    num_classes: int = 1000,
    in_channels: int = 3,
    small_images: bool = False,
    width: float = 1.0,
    dropout: float = 0.2,
) -> MobileNetV2:
    """MobileNetV2; 3.5 million parameters for 1,000 classes.

    Args: num_classes (1000), in_channels (3), width (1: a factor on all channels), dropout (0.2),
    small_images (False; True for images of 28 or 32 pixels: neither the stem nor the second stage
    has a stride).
    Shapes: (N, in_channels, H, W) to logits (N, num_classes). torchvision's weights load.

    >>> import torch
    >>> mobilenet_v2(10, in_channels=1, small_images=True)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])

    Source: Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks".
    """
    return MobileNetV2(num_classes, in_channels, small_images, width, dropout)


class BlockV3(NamedTuple):
    """A row of the paper's tables; `hard` says whether hard swish is the activation."""

    kernel_size: int
    inner: int
    channels: int
    squeezes: bool
    hard: bool
    stride: int


V3_LARGE = (
    BlockV3(3, 16, 16, False, False, 1),
    BlockV3(3, 64, 24, False, False, 2),
    BlockV3(3, 72, 24, False, False, 1),
    BlockV3(5, 72, 40, True, False, 2),
    BlockV3(5, 120, 40, True, False, 1),
    BlockV3(5, 120, 40, True, False, 1),
    BlockV3(3, 240, 80, False, True, 2),
    BlockV3(3, 200, 80, False, True, 1),
    BlockV3(3, 184, 80, False, True, 1),
    BlockV3(3, 184, 80, False, True, 1),
    BlockV3(3, 480, 112, True, True, 1),
    BlockV3(3, 672, 112, True, True, 1),
    BlockV3(5, 672, 160, True, True, 2),
    BlockV3(5, 960, 160, True, True, 1),
    BlockV3(5, 960, 160, True, True, 1),
)
V3_SMALL = (
    BlockV3(3, 16, 16, True, False, 2),
    BlockV3(3, 72, 24, False, False, 2),
    BlockV3(3, 88, 24, False, False, 1),
    BlockV3(5, 96, 40, True, True, 2),
    BlockV3(5, 240, 40, True, True, 1),
    BlockV3(5, 240, 40, True, True, 1),
    BlockV3(5, 120, 48, True, True, 1),
    BlockV3(5, 144, 48, True, True, 1),
    BlockV3(5, 288, 96, True, True, 2),
    BlockV3(5, 576, 96, True, True, 1),
    BlockV3(5, 576, 96, True, True, 1),
)

NORM_V3 = partial(pco_nn.BatchNorm2d, eps=0.001, momentum=0.01)
conv_v3 = partial(ConvNormAct, norm_layer=NORM_V3)


class InvertedResidualV3(nn.Module):
    """Version 3's block: expand, depthwise, squeeze and excitation, project."""

    def __init__(self, in_channels: int, row: BlockV3, stride: int) -> None:
        super().__init__()
        act: MakeModule = nn.Hardswish if row.hard else pco_nn.ReLU
        inner = row.inner
        members: list[nn.Module] = []
        if inner != in_channels:
            members.append(conv_v3(in_channels, inner, 1, activation_layer=act))
        members.append(
            conv_v3(inner, inner, row.kernel_size, stride, groups=inner, activation_layer=act)
        )
        if row.squeezes:
            squeezed = divisible(inner // 4)
            members.append(pco_nn.SqueezeExcite(inner, squeezed, gate=nn.Hardsigmoid))
        members.append(conv_v3(inner, row.channels, 1, activation_layer=None))
        self.block = nn.Sequential(*members)
        self.is_residual = stride == 1 and in_channels == row.channels

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x + self.block(x) if self.is_residual else self.block(x)


class MobileNetV3(nn.Module):
    """A stem, inverted residuals, a 1×1 convolution, two linear layers."""

    def __init__(
        self,
        rows: Sequence[BlockV3],
        last: int,
        num_classes: int,
        in_channels: int,
        small_images: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        swish: MakeModule = nn.Hardswish
        stem = conv_v3(in_channels, 16, 3, 1 if small_images else 2, activation_layer=swish)
        members: list[nn.Module] = [stem]
        channels = 16
        first_stride = next(number for number, row in enumerate(rows) if row.stride == 2)
        for number, row in enumerate(rows):
            stride = 1 if small_images and number == first_stride else row.stride
            members.append(InvertedResidualV3(channels, row, stride))
            channels = row.channels
        members.append(conv_v3(channels, 6 * channels, 1, activation_layer=swish))
        self.features = nn.Sequential(*members)
        self.classifier = nn.Sequential(
            pco_nn.Linear(6 * channels, last),
            nn.Hardswish(inplace=True),
            pco_nn.Dropout(dropout),
            pco_nn.Linear(last, num_classes),
        )
        initialize(self, linear_std=0.01)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.classifier(pooled(self.features(x)))


def mobilenet_v3_large(
    num_classes: int = 1000,
    in_channels: int = 3,
    small_images: bool = False,
    dropout: float = 0.2,
) -> MobileNetV3:
    """MobileNetV3-Large; 5.5 million parameters for 1,000 classes.

    Args: num_classes (1000), in_channels (3), dropout (0.2), small_images (False; True for images
    of 28 or 32 pixels: the first two strides are left out).
    Shapes: (N, in_channels, H, W) to logits (N, num_classes). torchvision's weights load.

    Source: Howard et al. 2019, "Searching for MobileNetV3".
    """
    return MobileNetV3(V3_LARGE, 1280, num_classes, in_channels, small_images, dropout)


def mobilenet_v3_small(
    num_classes: int = 1000,
    in_channels: int = 3,
    small_images: bool = False,
    dropout: float = 0.2,
) -> MobileNetV3:
    """MobileNetV3-Small; as `mobilenet_v3_large`, 2.5 million parameters."""
    return MobileNetV3(V3_SMALL, 1024, num_classes, in_channels, small_images, dropout)
