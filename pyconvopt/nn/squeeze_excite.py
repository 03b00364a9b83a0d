"""Squeeze and excitation: channels weighed by what the whole map shows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class SqueezeExcite(nn.Module):
    """y = x · gate(fc2(activation(fc1(mean of x over H and W)))), one factor a channel.

    Args: channels, squeeze_channels (None: channels // 16, at least 1), activation (nn.ReLU) and
    gate (nn.Sigmoid): makers of modules.

    Shapes: (N, C, H, W), unchanged. `fc1` and `fc2` are 1×1 convolutions, as in torchvision's
    SqueezeExcitation, whose weights load.

    Source: Hu, Shen and Sun 2018, "Squeeze-and-Excitation Networks".

    >>> import torch, pyconvopt as pco
    >>> pco.nn.SqueezeExcite(32)(torch.randn(2, 32, 5, 5)).shape
    torch.Size([2, 32, 5, 5])
    """

    def __init__(
        self,
        channels: int,
        squeeze_channels: int | None = None,
        activation: Callable[[], nn.Module] = nn.ReLU,
        gate: Callable[[], nn.Module] = nn.Sigmoid,
    ) -> None:
        super().__init__()
        squeezed = max(1, channels // 16) if squeeze_channels is None else squeeze_channels
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = activation()
        self.gate = gate()

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        squeezed = torch.mean(input, dim=(2, 3), keepdim=True)
        return input * self.gate(self.fc2(self.activation(self.fc1(squeezed))))
