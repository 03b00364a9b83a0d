"""Activation modules."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import functional


class ReLU(torch.nn.ReLU):
    """``torch.nn.ReLU``: ``max(x, 0)`` (`pyconvopt.functional.relu`).

    >>> import torch, pyconvopt as pco
    >>> pco.nn.ReLU()(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        return functional.relu(input, self.inplace)
