"""EfficientNet-B0: inverted residuals with squeeze and excitation, SiLU, and dropped paths.

Source: Tan and Le 2019, "EfficientNet: Rethinking Model Scaling"; parameter names and shapes are
torchvision's.
"""

from __future__ import annotations

from torch import Tensor, nn

from pyconvopt import nn as pco_nn
from pyconvopt.models.architectures.blocks import initialize, pooled
from pyconvopt.nn import ConvNormAct

# Expansion, kernel, stride of the first block, channels, blocks.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class MBConv(nn.Module):
    """Expand, depthwise, squeeze and excitation, project; dropped as a whole now and then."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: int,
        stride: int,
        expansion: int,
        drop: float,
    ) -> None:
        super().__init__()
        inner = in_channels * expansion
        begin = (
            [ConvNormAct(in_channels, inner, 1, activation_layer=nn.SiLU)] if expansion != 1 else []
        )
        self.block = nn.Sequential(
            *begin,
            ConvNormAct(inner, inner, kernel_size, stride, groups=inner, activation_layer=nn.SiLU),
            pco_nn.SqueezeExcite(inner, max(1, in_channels // 4), activation=nn.SiLU),
            ConvNormAct(inner, channels, 1, activation_layer=None),
        )
        self.is_residual = stride == 1 and in_channels == channels
        self.stochastic_depth = pco_nn.DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = self.block(x)
        return x + self.stochastic_depth(y) if self.is_residual else y


class EfficientNet(nn.Module):
    """A stem, seven stages of MBConv blocks, a 1×1 convolution, a linear layer."""

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        small_images: bool,
        dropout: float,
        stochastic_depth: float,
    ) -> None:
        super().__init__()
        stem = ConvNormAct(in_channels, 32, 3, 1 if small_images else 2, activation_layer=nn.SiLU)
        members: list[nn.Module] = [stem]
        total, done, channels = sum(stage[-1] for stage in STAGES), 0, 32
        for stage, (expansion, kernel_size, stride, planes, blocks) in enumerate(STAGES):
            made = []
            for number in range(blocks):
                strides = number == 0 and not (small_images and stage == 1)
                # The deeper a block, the oftener it is dropped.
                drop = stochastic_depth * done / total
                made.append(
                    MBConv(channels, planes, kernel_size, stride if strides else 1, expansion, drop)
                )
                channels, done = planes, done + 1
            members.append(nn.Sequential(*made))
        members.append(ConvNormAct(channels, 4 * channels, 1, activation_layer=nn.SiLU))
        self.features = nn.Sequential(*members)
        self.classifier = nn.Sequential(
            pco_nn.Dropout(dropout), pco_nn.Linear(4 * channels, num_classes)
        )
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.classifier(pooled(self.features(x)))


def efficientnet_b0(
    num_classes: int = 1000,
    in_channels: int = 3,
    small_images: bool = False,
    dropout: float = 0.2,
    stochastic_depth: float = 0.2,
) -> EfficientNet:
    """EfficientNet-B0; 5.3 million parameters for 1,000 classes.

    Args: num_classes (1000), in_channels (3), dropout (0.2), stochastic_depth (0.2: how often the
    last block is dropped, earlier ones in proportion), small_images (False; True for images of 28
    or 32 pixels: neither the stem nor the second stage has a stride).
    Shapes: (N, in_channels, H, W) to logits (N, num_classes). torchvision's weights load.

    >>> import torch
    >>> efficientnet_b0(10, in_channels=1, small_images=True)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])

    Source: Tan and Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural
    Networks".
    """
    return EfficientNet(num_classes, in_channels, small_images, dropout, stochastic_depth)
