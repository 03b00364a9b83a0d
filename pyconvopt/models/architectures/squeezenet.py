"""SqueezeNet 1.1: few channels into 1×1 and 3×3 convolutions side by side, and no linear layer.

Source: Iandola et al. 2016, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters";
parameter names and shapes are torchvision's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyconvopt import nn as pco_nn


class Fire(nn.Module):
    """A 1×1 convolution to few channels, then 1×1 and 3×3 ones whose outputs are joined."""

    def __init__(self, in_channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = pco_nn.Conv2d(in_channels, squeezed, 1)
        self.squeeze_activation = pco_nn.ReLU(inplace=True)
        self.expand1x1 = pco_nn.Conv2d(squeezed, expanded, 1)
        self.expand1x1_activation = pco_nn.ReLU(inplace=True)
        self.expand3x3 = pco_nn.Conv2d(squeezed, expanded, 3, padding=1)
        self.expand3x3_activation = pco_nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = self.squeeze_activation(self.squeeze(x))
        parts = (
            self.expand1x1_activation(self.expand1x1(x)),
            self.expand3x3_activation(self.expand3x3(x)),
        )
        return torch.cat(parts, 1)


class SqueezeNet(nn.Module):
    """A stem, eight fire modules, a 1×1 convolution to the classes, the mean over the map."""

    def __init__(
        self, num_classes: int, in_channels: int, small_images: bool, dropout: float
    ) -> None:
        super().__init__()
        stride, padding = (1, 1) if small_images else (2, 0)
        final = pco_nn.Conv2d(512, num_classes, 1)
        self.features = nn.Sequential(
            pco_nn.Conv2d(in_channels, 64, 3, stride, padding),
            pco_nn.ReLU(inplace=True),
            nn.Identity() if small_images else pco_nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            pco_nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            pco_nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
        )
        self.classifier = nn.Sequential(
            pco_nn.Dropout(dropout), final, pco_nn.ReLU(inplace=True), pco_nn.AdaptiveAvgPool2d(1)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        nn.init.normal_(final.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return torch.flatten(self.classifier(self.features(x)), 1)


def squeezenet1_1(
    num_classes: int = 1000,
    in_channels: int = 3,
    small_images: bool = False,
    dropout: float = 0.5,
) -> SqueezeNet:
    """SqueezeNet 1.1; 1.2 million parameters for 1,000 classes.

    Args: num_classes (1000), in_channels (3), dropout (0.5), small_images (False; True for images
    of 28 or 32 pixels: a stem without stride, no first pool).
    Shapes: (N, in_channels, H, W) to logits (N, num_classes). torchvision's weights load.

    >>> squeezenet1_1(10, in_channels=1, small_images=True)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])

    Source: Iandola et al. 2016, "SqueezeNet".
    """
    return SqueezeNet(num_classes, in_channels, small_images, dropout)
