"""Layers that learn their number of inputs from their first input, then become this library's."""

from __future__ import annotations

import torch

from .batchnorm import BatchNorm2d
from .conv import Conv2d
from .linear import Linear


class LazyConv2d(torch.nn.LazyConv2d, Conv2d):  # type: ignore[misc]
    """``torch.nn.LazyConv2d``: becomes a `Conv2d` at its first call.

    >>> import torch, pyconvopt as pco
    >>> layer = pco.nn.LazyConv2d(16, 3)
    >>> layer(torch.zeros(1, 3, 8, 8)).shape, layer
    (torch.Size([1, 16, 6, 6]), Conv2d(3, 16, kernel_size=(3, 3), stride=(1, 1)))
    """

    cls_to_become = Conv2d  # type: ignore[assignment]


class LazyBatchNorm2d(torch.nn.LazyBatchNorm2d, BatchNorm2d):
    """``torch.nn.LazyBatchNorm2d``: becomes a `BatchNorm2d` at its first call.

    >>> import torch, pyconvopt as pco
    >>> layer = pco.nn.LazyBatchNorm2d()
    >>> layer(torch.zeros(2, 3, 8, 8)).shape, layer.num_features
    (torch.Size([2, 3, 8, 8]), 3)
    """

    cls_to_become = BatchNorm2d  # type: ignore[assignment]


class LazyLinear(torch.nn.LazyLinear, Linear):
    """``torch.nn.LazyLinear``: becomes a `Linear` at its first call.

    >>> import torch, pyconvopt as pco
    >>> layer = pco.nn.LazyLinear(2)
    >>> layer(torch.zeros(3, 4)).shape, layer
    (torch.Size([3, 2]), Linear(in_features=4, out_features=2, bias=True))
    """

    cls_to_become = Linear  # type: ignore[assignment]
