"""Convolution modules."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import functional
from .scripting import scriptable


@scriptable
class Conv2d(torch.nn.Conv2d):
    """``torch.nn.Conv2d`` on this library's kernels: same arguments, state and results.

    Formula, shapes and errors: `pyconvopt.functional.conv2d`.

    >>> import torch, pyconvopt as pco
    >>> layer = pco.nn.Conv2d(3, 16, 3, padding=1)
    >>> isinstance(layer, torch.nn.Conv2d), layer(torch.zeros(2, 3, 8, 8)).shape
    (True, torch.Size([2, 16, 8, 8]))
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = (0, 0)
        return functional.conv2d(
            input, weight, bias, self.stride, padding, self.dilation, self.groups
        )


@scriptable
class Conv1d(torch.nn.Conv1d):
    """``torch.nn.Conv1d`` (`pyconvopt.functional.conv1d`).

    >>> import torch, pyconvopt as pco
    >>> pco.nn.Conv1d(3, 16, 3, padding=1)(torch.zeros(2, 3, 8)).shape
    torch.Size([2, 16, 8])
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = (0,)
        return functional.conv1d(
            input, weight, bias, self.stride, padding, self.dilation, self.groups
        )


@scriptable
class ConvTranspose2d(torch.nn.ConvTranspose2d):
    """``torch.nn.ConvTranspose2d`` (`pyconvopt.functional.conv_transpose2d`).

    >>> import torch, pyconvopt as pco
    >>> pco.nn.ConvTranspose2d(3, 16, 2, stride=2)(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 16, 16, 16])
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: D102
        window: Any = (self.stride, self.padding, self.kernel_size, 2, self.dilation)
        extra = tuple(self._output_padding(input, output_size, *window))
        padding: Any = self.padding
        return functional.conv_transpose2d(
            input, self.weight, self.bias, self.stride, padding, extra, self.groups, self.dilation
        )


def standardized(weight: Tensor, eps: float = 1e-5) -> Tensor:
    """Filters (out, in, kh, kw) with mean 0 and variance 1 each."""
    variance, mean = torch.var_mean(weight, dim=(1, 2, 3), correction=0, keepdim=True)
    return (weight - mean) * (variance + eps).rsqrt()


class WeightStandardizedConv2d(Conv2d):
    """Convolution with standardised filters: (w - mean) / √(variance + eps), filter by filter.

    Mean and (biased) variance are over the C / groups · kh · kw weights of a filter, in training
    and evaluation alike; `weight` holds the filters before it. Made for group normalisation and
    small batches.

    Args: as Conv2d, and eps (1e-5).

    Source: Qiao et al. 2019, "Micro-Batch Training with Batch-Channel Normalization and Weight
    Standardization".

    >>> import torch, pyconvopt as pco
    >>> layer = pco.nn.WeightStandardizedConv2d(3, 16, 3)
    >>> layer.standardized().mean(dim=(1, 2, 3)).abs().max().item() < 1e-6
    True
    """

    def __init__(self, *args: Any, eps: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.eps = eps

    def standardized(self) -> Tensor:
        """The filters that the convolution uses."""
        return standardized(self.weight, self.eps)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, self.standardized(), bias)
