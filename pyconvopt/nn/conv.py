"""Convolution module."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import functional


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
