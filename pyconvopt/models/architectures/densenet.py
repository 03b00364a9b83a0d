"""DenseNet: every layer of a block sees the outputs of all layers before it, side by side.

Source: Huang et al. 2017, "Densely Connected Convolutional Networks"; parameter names and shapes
are torchvision's.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from pyconvopt import nn as pco_nn
from pyconvopt.models.architectures.blocks import initialize

BLOCKS_121 = (6, 12, 24, 16)
BOTTLENECK = 4  # a layer's 1×1 convolution has this many times the growth in channels


class DenseLayer(nn.Module):
    """Norm, ReLU, 1×1 convolution, norm, ReLU, 3×3 convolution to `growth` channels."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        inner = BOTTLENECK * growth
        self.norm1 = pco_nn.BatchNorm2d(in_channels)
        self.relu1 = pco_nn.ReLU(inplace=True)
        self.conv1 = pco_nn.Conv2d(in_channels, inner, 1, bias=False)
        self.norm2 = pco_nn.BatchNorm2d(inner)
        self.relu2 = pco_nn.ReLU(inplace=True)
        self.conv2 = pco_nn.Conv2d(inner, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = self.conv1(self.relu1(self.norm1(x)))
        return self.conv2(self.relu2(self.norm2(y)))


class DenseBlock(nn.ModuleDict):
    """Layers whose outputs are joined to their inputs."""

    def __init__(self, layers: int, in_channels: int, growth: int) -> None:
        super().__init__(
            {
                f"denselayer{number + 1}": DenseLayer(in_channels + number * growth, growth)
                for number in range(layers)
            }
        )

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        for layer in self.values():
            x = torch.cat([x, layer(x)], 1)
        return x


def transition(in_channels: int) -> nn.Sequential:
    """Half the channels, half the height and width."""
    return nn.Sequential(
        OrderedDict(
            norm=pco_nn.BatchNorm2d(in_channels),
            relu=pco_nn.ReLU(inplace=True),
            conv=pco_nn.Conv2d(in_channels, in_channels // 2, 1, bias=False),
            pool=pco_nn.AvgPool2d(2),
        )
    )


class DenseNet(nn.Module):
    """A stem, four dense blocks with transitions between them, a linear layer."""

    def __init__(self, num_classes: int, in_channels: int, small_images: bool, growth: int) -> None:
        super().__init__()
        channels = 2 * growth
        size, stride = (3, 1) if small_images else (7, 2)
        features: OrderedDict[str, nn.Module] = OrderedDict(
            conv0=pco_nn.Conv2d(in_channels, channels, size, stride, size // 2, bias=False),
            norm0=pco_nn.BatchNorm2d(channels),
            relu0=pco_nn.ReLU(inplace=True),
            pool0=nn.Identity() if small_images else pco_nn.MaxPool2d(3, 2, padding=1),
        )
        for number, layers in enumerate(BLOCKS_121, 1):
            features[f"denseblock{number}"] = DenseBlock(layers, channels, growth)
            channels += layers * growth
            if number < len(BLOCKS_121):
                features[f"transition{number}"] = transition(channels)
                channels //= 2
        features["norm5"] = pco_nn.BatchNorm2d(channels)
        self.features = nn.Sequential(features)
        self.relu = pco_nn.ReLU(inplace=True)
        self.avgpool = pco_nn.AdaptiveAvgPool2d(1)
        self.classifier = pco_nn.Linear(channels, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = self.avgpool(self.relu(self.features(x)))
        return self.classifier(torch.flatten(x, 1))


def densenet121(
    num_classes: int = 1000,
    in_channels: int = 3,
    small_images: bool = False,
    growth: int = 32,
) -> DenseNet:
    """DenseNet-121; 8.0 million parameters for 1,000 classes.

    Args: num_classes (1000), in_channels (3), growth (32: the channels each layer adds),
    small_images (False; True for images of 28 or 32 pixels: a 3×3 stem, no first pool).
    Shapes: (N, in_channels, H, W) to logits (N, num_classes). torchvision's weights load.

    >>> densenet121(10, 1, small_images=True, growth=8)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])

    Source: Huang et al. 2017, "Densely Connected Convolutional Networks".
    """
    return DenseNet(num_classes, in_channels, small_images, growth)
