"""ConvNeXt: a depthwise 7×7 convolution, then a small network on each pixel's channels.

Source: Liu et al. 2022, "A ConvNet for the 2020s"; parameter names and shapes are torchvision's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyconvopt import nn as pco_nn
from pyconvopt.models.architectures.blocks import LayerNorm2d, Permute

EPS = 1e-6


class ConvNeXtBlock(nn.Module):
    """x + scale · f(x), a scale a channel, that begins at 10⁻⁶."""

    def __init__(self, channels: int, drop: float) -> None:
        super().__init__()
        self.block = nn.Sequential(
            pco_nn.Conv2d(channels, channels, 7, padding=3, groups=channels),
            Permute(0, 2, 3, 1),
            nn.LayerNorm(channels, eps=EPS),
            pco_nn.Linear(channels, 4 * channels),
            nn.GELU(),
            pco_nn.Linear(4 * channels, channels),
            Permute(0, 3, 1, 2),
        )
        self.layer_scale = nn.Parameter(torch.full((channels, 1, 1), 1e-6))
        self.stochastic_depth = pco_nn.DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x + self.stochastic_depth(self.layer_scale * self.block(x))


class ConvNeXt(nn.Module):
    """Patches, four stages with halving convolutions between them, a linear layer."""

    def __init__(
        self,
        blocks: Sequence[int],
        channels: Sequence[int],
        num_classes: int,
        in_channels: int,
        small_images: bool,
        stochastic_depth: float,
    ) -> None:
        super().__init__()
        # Patches of 4×4 pixels, or for small images a 3×3 stem.
        patches = (
            pco_nn.Conv2d(in_channels, channels[0], 3, padding=1)
            if small_images
            else pco_nn.Conv2d(in_channels, channels[0], 4, 4)
        )
        members: list[nn.Module] = [nn.Sequential(patches, LayerNorm2d(channels[0], eps=EPS))]
        total, done = sum(blocks), 0
        for stage, (count, width) in enumerate(zip(blocks, channels, strict=True)):
            if stage:
                before = channels[stage - 1]
                members.append(
                    nn.Sequential(LayerNorm2d(before, eps=EPS), pco_nn.Conv2d(before, width, 2, 2))
                )
            made = []
            for _ in range(count):
                made.append(ConvNeXtBlock(width, stochastic_depth * done / (total - 1)))
                done += 1
            members.append(nn.Sequential(*made))
        self.features = nn.Sequential(*members)
        self.avgpool = pco_nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            LayerNorm2d(channels[-1], eps=EPS),
            nn.Flatten(1),
            pco_nn.Linear(channels[-1], num_classes),
        )
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.classifier(self.avgpool(self.features(x)))


def convnext_tiny(
    num_classes: int = 1000,
    in_channels: int = 3,
    small_images: bool = False,
    stochastic_depth: float = 0.1,
) -> ConvNeXt:
    """ConvNeXt-T; 28.6 million parameters for 1,000 classes.

    Args: num_classes (1000), in_channels (3), stochastic_depth (0.1: how often the last block is
    dropped, earlier ones in proportion), small_images (False; True for images of 28 or 32 pixels:
    a 3×3 stem in place of patches of 4×4).
    Shapes: (N, in_channels, H, W) to logits (N, num_classes). torchvision's weights load.

    >>> convnext_tiny(10, in_channels=1)(torch.zeros(2, 1, 32, 32)).shape
    torch.Size([2, 10])

    Source: Liu et al. 2022, "A ConvNet for the 2020s".
    """
    return ConvNeXt(
        (3, 3, 9, 3), (96, 192, 384, 768), num_classes, in_channels, small_images, stochastic_depth
    )
