"""Pooling modules."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import functional
from .scripting import scriptable


@scriptable
class MaxPool2d(torch.nn.MaxPool2d):
    """``torch.nn.MaxPool2d`` (`pyconvopt.functional.max_pool2d`).

    >>> import torch, pyconvopt as pco
    >>> pco.nn.MaxPool2d(2)(torch.zeros(1, 8, 6, 7)).shape
    torch.Size([1, 8, 3, 3])
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        return functional.max_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            ceil_mode=self.ceil_mode,
            return_indices=self.return_indices,
        )


@scriptable
class AvgPool2d(torch.nn.AvgPool2d):
    """``torch.nn.AvgPool2d`` (`pyconvopt.functional.avg_pool2d`).

    >>> import torch, pyconvopt as pco
    >>> pco.nn.AvgPool2d(2)(torch.arange(4.0).view(1, 1, 2, 2)).item()
    1.5
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        return functional.avg_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )


@scriptable
class AdaptiveAvgPool2d(torch.nn.AdaptiveAvgPool2d):
    """``torch.nn.AdaptiveAvgPool2d`` (`pyconvopt.functional.adaptive_avg_pool2d`).

    >>> import torch, pyconvopt as pco
    >>> pco.nn.AdaptiveAvgPool2d(1)(torch.arange(4.0).view(1, 1, 2, 2)).item()
    1.5
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        return functional.adaptive_avg_pool2d(input, self.output_size)


class BlurPool2d(torch.nn.Module):
    """Downsampling without aliasing: a binomial filter, then every `stride`-th pixel.

    y = (x padded) ⋆ (f fᵀ) at stride, f the binomial coefficients of order kernel_size - 1 over
    their sum: (1, 2, 1) / 4 by default. In place of a strided max-pool: MaxPool2d(2, stride=1),
    then BlurPool2d(channels).

    Args: channels, kernel_size (3), stride (2), padding_mode ('reflect'; as torch's functional.pad).
    Shapes: (N, C, H, W) to (N, C, ⌈H / stride⌉, ⌈W / stride⌉).

    Source: Zhang 2019, "Making Convolutional Networks Shift-Invariant Again".

    >>> import torch, pyconvopt as pco
    >>> pco.nn.BlurPool2d(1)(torch.ones(1, 1, 4, 4))
    tensor([[[[1., 1.],
              [1., 1.]]]])
    """

    kernel: Tensor

    def __init__(
        self, channels: int, kernel_size: int = 3, stride: int = 2, padding_mode: str = "reflect"
    ) -> None:
        super().__init__()
        if kernel_size < 1 or stride < 1:
            raise ValueError(f"kernel_size and stride must be >= 1, got {kernel_size} and {stride}")
        self.channels, self.kernel_size, self.stride = channels, kernel_size, stride
        self.padding_mode = padding_mode
        line = torch.tensor([math.comb(kernel_size - 1, k) for k in range(kernel_size)])
        kernel = torch.outer(line, line) / line.sum() ** 2
        # Not saved: it follows from the arguments.
        self.register_buffer("kernel", kernel.repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        before, after = (self.kernel_size - 1) // 2, self.kernel_size // 2
        x = F.pad(input, (before, after, before, after), mode=self.padding_mode)
        return functional.conv2d(x, self.kernel, stride=self.stride, groups=self.channels)

    def extra_repr(self) -> str:  # noqa: D102
        return f"{self.channels}, kernel_size={self.kernel_size}, stride={self.stride}"
