"""U-Net: down to a small map and up again, with the maps of the way down beside those of the way up.

Source: Ronneberger, Fischer and Brox 2015, "U-Net: Convolutional Networks for Biomedical Image
Segmentation". Here with padding, so that sizes stay, and batch norm.
"""

from __future__ import annotations

import torch
import torch.nn.functional as torch_functional
from torch import Tensor, nn

from pyconvopt import nn as pco_nn
from pyconvopt.models.architectures.blocks import initialize
from pyconvopt.nn import ConvNormAct


def double(in_channels: int, channels: int) -> nn.Sequential:
    """Two 3×3 convolutions, each with batch norm and ReLU."""
    return nn.Sequential(ConvNormAct(in_channels, channels), ConvNormAct(channels, channels))


class UNet(nn.Module):
    """A class for each pixel; see `unet`."""

    def __init__(self, num_classes: int, in_channels: int, width: int, depth: int) -> None:
        super().__init__()
        channels = [width << level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            double(before, after)
            for before, after in zip([in_channels, *channels], channels, strict=False)
        )
        self.pool = pco_nn.MaxPool2d(2)
        levels = list(zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(low, high, 2, 2) for low, high in levels)
        self.merge = nn.ModuleList(double(2 * high, high) for _, high in levels)
        self.head = pco_nn.Conv2d(width, num_classes, 1)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        maps = []
        for level, block in enumerate(self.down):
            x = block(self.pool(x) if level else x)
            maps.append(x)
        for up, merge, beside in zip(self.up, self.merge, maps[-2::-1], strict=True):
            x = up(x)
            # An odd size lost its last row or column to the pool.
            down, across = (beside.shape[axis] - x.shape[axis] for axis in (2, 3))
            if down or across:
                x = torch_functional.pad(x, (0, across, 0, down), mode="replicate")
            x = merge(torch.cat([beside, x], 1))
        return self.head(x)


def unet(num_classes: int = 2, in_channels: int = 3, width: int = 64, depth: int = 4) -> UNet:
    """U-Net for segmentation: logits of the classes for each pixel.

    Args: num_classes (2), in_channels (3), width (64: the channels at full size, doubled at each
    level), depth (4: how often the size is halved).
    Shapes: (N, in_channels, H, W) to (N, num_classes, H, W), H and W at least 2^depth.

    Errors: ValueError for a width or depth below 1.

    >>> unet(3, in_channels=1, width=8)(torch.zeros(2, 1, 37, 50)).shape
    torch.Size([2, 3, 37, 50])

    Source: Ronneberger, Fischer and Brox 2015, "U-Net".
    """
    if width < 1 or depth < 1:
        raise ValueError(f"width and depth must be 1 or more, got {width} and {depth}")
    return UNet(num_classes, in_channels, width, depth)
