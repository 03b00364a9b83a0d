"""RegNetY-400MF: bottlenecks of grouped convolutions, their widths on a line, then quantised.

Source: Radosavovic et al. 2020, "Designing Network Design Spaces"; parameter names and shapes are
torchvision's.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from pyconvopt import nn as pco_nn
from pyconvopt.models.architectures.blocks import initialize
from pyconvopt.nn import ConvNormAct

STEM = 32
GROUP_WIDTH = 8
WIDTHS = (48, 104, 208, 440)
BLOCKS = (1, 3, 6, 6)


class RegNetBlock(nn.Module):
    """1×1, grouped 3×3, squeeze and excitation, 1×1, and the input beside them."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        changes = stride != 1 or in_channels != channels
        self.proj = (
            ConvNormAct(in_channels, channels, 1, stride, activation_layer=None)
            if changes
            else None
        )
        groups = channels // GROUP_WIDTH
        self.f = nn.Sequential(
            OrderedDict(
                a=ConvNormAct(in_channels, channels, 1),
                b=ConvNormAct(channels, channels, 3, stride, groups=groups),
                # A quarter of the block's input.
                se=pco_nn.SqueezeExcite(channels, round(0.25 * in_channels)),
                c=ConvNormAct(channels, channels, 1, activation_layer=None),
            )
        )
        self.activation = pco_nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.activation((x if self.proj is None else self.proj(x)) + self.f(x))


class RegNet(nn.Module):
    """A stem, four stages, a linear layer."""

    def __init__(self, num_classes: int, in_channels: int, small_images: bool) -> None:
        super().__init__()
        self.stem = ConvNormAct(in_channels, STEM, 3, 1 if small_images else 2)
        stages: OrderedDict[str, nn.Module] = OrderedDict()
        channels = STEM
        for stage, (width, blocks) in enumerate(zip(WIDTHS, BLOCKS, strict=True), 1):
            made: OrderedDict[str, nn.Module] = OrderedDict()
            for number in range(blocks):
                strides = number == 0 and not (small_images and stage == 1)
                made[f"block{stage}-{number}"] = RegNetBlock(channels, width, 2 if strides else 1)
                channels = width
            stages[f"block{stage}"] = nn.Sequential(made)
        self.trunk_output = nn.Sequential(stages)
        self.avgpool = pco_nn.AdaptiveAvgPool2d(1)
        self.fc = pco_nn.Linear(channels, num_classes)
        initialize(self, linear_std=0.01)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = self.avgpool(self.trunk_output(self.stem(x)))
        return self.fc(torch.flatten(x, 1))


def regnet_y_400mf(
    num_classes: int = 1000, in_channels: int = 3, small_images: bool = False
) -> RegNet:
    """RegNetY of 400 million multiply-adds; 4.3 million parameters for 1,000 classes.

    Args: num_classes (1000), in_channels (3), small_images (False; True for images of 28 or 32
    pixels: neither the stem nor the first stage has a stride).
    Shapes: (N, in_channels, H, W) to logits (N, num_classes). torchvision's weights load.

    >>> regnet_y_400mf(10, in_channels=1, small_images=True)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])

    Source: Radosavovic et al. 2020, "Designing Network Design Spaces".
    """
    return RegNet(num_classes, in_channels, small_images)
