"""What several architectures are built of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

MakeModule = Callable[..., nn.Module]


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of each pixel: (N, C, H, W), unchanged."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Permute(nn.Module):
    """The axes in another order."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        return input.permute(self.axes)

    def extra_repr(self) -> str:  # noqa: D102
        return ", ".join(map(str, self.axes))


def divisible(value: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `value`, not more than a tenth below it.

    >>> divisible(16 * 0.75), divisible(72 / 4)
    (16, 24)
    """
    nearest = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * value else nearest


def initialize(model: nn.Module, linear_std: float | None = None) -> None:
    """He's initialisation of the convolutions (normal, by fan out), norms as identities.

    `linear_std`: None (torch's own), or the deviation of normal weights of linear layers, their
    biases 0.

    Source: He et al. 2015, "Delving Deep into Rectifiers".
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, std=linear_std)
            nn.init.zeros_(module.bias)


def pooled(x: Tensor) -> Tensor:
    """(N, C, H, W) to its means over the map, (N, C)."""
    return torch.flatten(torch.mean(x, dim=(2, 3), keepdim=True), 1)
