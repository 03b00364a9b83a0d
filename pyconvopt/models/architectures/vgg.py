"""VGG with batch norm: 3×3 convolutions, and a 2×2 max-pool after each group of them.

Source: Simonyan and Zisserman 2015, "Very Deep Convolutional Networks"; parameter names and shapes
are torchvision's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyconvopt import nn as pco_nn
from pyconvopt.models.architectures.blocks import initialize

CHANNELS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """Five groups of convolutions, then linear layers.

    Args: convolutions (of each group), num_classes, in_channels, dropout, small_images (no first
    pool, and one linear layer on the mean over the map in place of three).
    Shapes: (N, in_channels, H, W) to (N, num_classes).
    """

    def __init__(
        self,
        convolutions: Sequence[int],
        num_classes: int = 1000,
        in_channels: int = 3,
        small_images: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        members: list[nn.Module] = []
        before = in_channels
        for group, (count, channels) in enumerate(zip(convolutions, CHANNELS, strict=True)):
            for _ in range(count):
                members += [
                    pco_nn.Conv2d(before, channels, 3, padding=1),
                    pco_nn.BatchNorm2d(channels),
                    pco_nn.ReLU(inplace=True),
                ]
                before = channels
            # A place holder keeps the numbers of the layers behind it.
            skips = small_images and group == 0
            members.append(nn.Identity() if skips else pco_nn.MaxPool2d(2))
        self.features = nn.Sequential(*members)
        if small_images:
            self.avgpool = pco_nn.AdaptiveAvgPool2d(1)
            self.classifier = nn.Sequential(
                pco_nn.Dropout(dropout), pco_nn.Linear(before, num_classes)
            )
        else:
            self.avgpool = pco_nn.AdaptiveAvgPool2d(7)
            self.classifier = nn.Sequential(
                pco_nn.Linear(before * 49, 4096),
                pco_nn.ReLU(inplace=True),
                pco_nn.Dropout(dropout),
                pco_nn.Linear(4096, 4096),
                pco_nn.ReLU(inplace=True),
                pco_nn.Dropout(dropout),
                pco_nn.Linear(4096, num_classes),
            )
        initialize(self, linear_std=0.01)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def vgg11_bn(
    num_classes: int = 1000,
    in_channels: int = 3,
    small_images: bool = False,
    dropout: float = 0.5,
) -> VGG:
    """VGG-11 with batch norm; 132.9 million parameters for 1,000 classes.

    Args: num_classes (1000), in_channels (3), dropout (0.5), small_images (False; True for images
    of 28 or 32 pixels: no first pool, and one linear layer, which leaves 9.2 million parameters).
    Shapes: (N, in_channels, H, W) to logits (N, num_classes). torchvision's weights load.

    >>> vgg11_bn(num_classes=10, in_channels=1, small_images=True)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])

    Source: Simonyan and Zisserman 2015, "Very Deep Convolutional Networks".
    """
    return VGG((1, 1, 2, 2, 2), num_classes, in_channels, small_images, dropout)


def vgg16_bn(
    num_classes: int = 1000,
    in_channels: int = 3,
    small_images: bool = False,
    dropout: float = 0.5,
) -> VGG:
    """VGG-16 with batch norm; as `vgg11_bn`, 138.4 million parameters."""
    return VGG((2, 2, 3, 3, 3), num_classes, in_channels, small_images, dropout)
