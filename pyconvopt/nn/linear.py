"""Dense module."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import functional
from .scripting import scriptable


@scriptable
class Linear(torch.nn.Linear):
    """``torch.nn.Linear``: ``y = x Wᵀ + b`` (`pyconvopt.functional.linear`).

    >>> import torch, pyconvopt as pco
    >>> pco.nn.Linear(4, 2)(torch.zeros(3, 4)).shape
    torch.Size([3, 2])
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        return functional.linear(input, self.weight, self.bias)
