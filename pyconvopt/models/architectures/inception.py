"""Inception v3: several convolutions side by side in a block, large ones split into small ones.

Source: Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision"; parameter
names and shapes are torchvision's (without the auxiliary classifier).
"""

from __future__ import annotations

import torch
import torch.nn.functional as torch_functional
from torch import Tensor, nn

from pyconvopt import nn as pco_nn

Size = int | tuple[int, int]


class BasicConv2d(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: int = 1,
        padding: Size = 0,
    ) -> None:
        super().__init__()
        self.conv = pco_nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, bias=False
        )
        self.bn = pco_nn.BatchNorm2d(out_channels, eps=0.001)
        self.relu = pco_nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.relu(self.bn(self.conv(x)))


def row(in_channels: int, out_channels: int) -> BasicConv2d:
    """A 1×7 convolution."""
    return BasicConv2d(in_channels, out_channels, (1, 7), padding=(0, 3))


def column(in_channels: int, out_channels: int) -> BasicConv2d:
    """A 7×1 convolution."""
    return BasicConv2d(in_channels, out_channels, (7, 1), padding=(3, 0))


def averaged(x: Tensor) -> Tensor:
    """Means over 3×3 pixels, the size kept."""
    return torch_functional.avg_pool2d(x, 3, stride=1, padding=1)


class InceptionA(nn.Module):
    """1×1, 5×5 and two 3×3 convolutions, and a pool."""

    def __init__(self, in_channels: int, pool_features: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(in_channels, 64, 1)
        self.branch5x5_1 = BasicConv2d(in_channels, 48, 1)
        self.branch5x5_2 = BasicConv2d(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = BasicConv2d(in_channels, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, padding=1)
        self.branch_pool = BasicConv2d(in_channels, pool_features, 1)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        branches = (
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.branch_pool(averaged(x)),
        )
        return torch.cat(branches, 1)


class InceptionB(nn.Module):
    """To half the size: strided 3×3 convolutions and a max-pool."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.branch3x3 = BasicConv2d(in_channels, 384, 3, stride=2)
        self.branch3x3dbl_1 = BasicConv2d(in_channels, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        branches = (
            self.branch3x3(x),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            torch_functional.max_pool2d(x, 3, stride=2),
        )
        return torch.cat(branches, 1)


class InceptionC(nn.Module):
    """7×7 convolutions as rows and columns."""

    def __init__(self, in_channels: int, inner: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(in_channels, 192, 1)
        self.branch7x7_1 = BasicConv2d(in_channels, inner, 1)
        self.branch7x7_2 = row(inner, inner)
        self.branch7x7_3 = column(inner, 192)
        self.branch7x7dbl_1 = BasicConv2d(in_channels, inner, 1)
        self.branch7x7dbl_2 = column(inner, inner)
        self.branch7x7dbl_3 = row(inner, inner)
        self.branch7x7dbl_4 = column(inner, inner)
        self.branch7x7dbl_5 = row(inner, 192)
        self.branch_pool = BasicConv2d(in_channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        long = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        branches = (
            self.branch1x1(x),
            self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
            self.branch7x7dbl_5(self.branch7x7dbl_4(long)),
            self.branch_pool(averaged(x)),
        )
        return torch.cat(branches, 1)


class InceptionD(nn.Module):
    """To half the size again."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.branch3x3_1 = BasicConv2d(in_channels, 192, 1)
        self.branch3x3_2 = BasicConv2d(192, 320, 3, stride=2)
        self.branch7x7x3_1 = BasicConv2d(in_channels, 192, 1)
        self.branch7x7x3_2 = row(192, 192)
        self.branch7x7x3_3 = column(192, 192)
        self.branch7x7x3_4 = BasicConv2d(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        long = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        branches = (
            self.branch3x3_2(self.branch3x3_1(x)),
            self.branch7x7x3_4(long),
            torch_functional.max_pool2d(x, 3, stride=2),
        )
        return torch.cat(branches, 1)


class InceptionE(nn.Module):
    """3×3 convolutions whose row and column stand side by side."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(in_channels, 320, 1)
        self.branch3x3_1 = BasicConv2d(in_channels, 384, 1)
        self.branch3x3_2a = BasicConv2d(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = BasicConv2d(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = BasicConv2d(in_channels, 448, 1)
        self.branch3x3dbl_2 = BasicConv2d(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = BasicConv2d(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = BasicConv2d(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = BasicConv2d(in_channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branches = (
            self.branch1x1(x),
            self.branch3x3_2a(single),
            self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(averaged(x)),
        )
        return torch.cat(branches, 1)


class Inception3(nn.Module):
    """Convolutions, eleven Inception blocks, a linear layer."""

    def __init__(
        self, num_classes: int, in_channels: int, small_images: bool, dropout: float
    ) -> None:
        super().__init__()
        # For small images nothing is strided or pooled before the blocks, and all keeps its size.
        stride, padding = (1, 1) if small_images else (2, 0)
        self.Conv2d_1a_3x3 = BasicConv2d(in_channels, 32, 3, stride, padding)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, 3, padding=padding)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, 3, padding=1)
        self.maxpool1 = nn.Identity() if small_images else pco_nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = BasicConv2d(64, 80, 1)
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, 3, padding=padding)
        self.maxpool2 = nn.Identity() if small_images else pco_nn.MaxPool2d(3, 2)
        self.Mixed_5b = InceptionA(192, 32)
        self.Mixed_5c = InceptionA(256, 64)
        self.Mixed_5d = InceptionA(288, 64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = InceptionC(768, 128)
        self.Mixed_6c = InceptionC(768, 160)
        self.Mixed_6d = InceptionC(768, 160)
        self.Mixed_6e = InceptionC(768, 192)
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b = InceptionE(1280)
        self.Mixed_7c = InceptionE(2048)
        self.avgpool = pco_nn.AdaptiveAvgPool2d(1)
        self.dropout = pco_nn.Dropout(dropout)
        self.fc = pco_nn.Linear(2048, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.1, a=-0.2, b=0.2)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        for module in self.children():
            if module is self.fc:
                x = torch.flatten(x, 1)
            x = module(x)
        return x


def inception_v3(
    num_classes: int = 1000,
    in_channels: int = 3,
    small_images: bool = False,
    dropout: float = 0.5,
) -> Inception3:
    """Inception v3 without its auxiliary classifier; 23.8 million parameters for 1,000 classes.

    Args: num_classes (1000), in_channels (3), dropout (0.5), small_images (False: made for images
    of 299 pixels, and at least 75; True for 28 or 32 pixels: a stem without stride and pools).
    Shapes: (N, in_channels, H, W) to logits (N, num_classes). torchvision's weights load, those
    named AuxLogits left out (`strict=False`). Inputs are taken as they are: torchvision's trained
    weights want transform_input done before.

    >>> inception_v3(10)(torch.zeros(2, 3, 75, 75)).shape
    torch.Size([2, 10])

    Source: Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision".
    """
    return Inception3(num_classes, in_channels, small_images, dropout)
