"""Pooling modules."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import functional


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
