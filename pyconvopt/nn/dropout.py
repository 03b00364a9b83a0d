"""Dropout modules."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import functional
from .scripting import scriptable


@scriptable
class Dropout(torch.nn.Dropout):
    """``torch.nn.Dropout``, its mask drawn by a counter-based generator (`functional.dropout`).

    >>> import torch, pyconvopt as pco
    >>> pco.nn.Dropout(0.5).eval()(torch.ones(3))
    tensor([1., 1., 1.])
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        return functional.dropout(input, self.p, self.training, self.inplace)


@scriptable
class Dropout2d(torch.nn.Dropout2d):
    """``torch.nn.Dropout2d``: whole channels are dropped (`functional.dropout2d`).

    >>> import torch, pyconvopt as pco
    >>> pco.nn.Dropout2d(0.5).eval()(torch.ones(1, 1, 1, 2))
    tensor([[[[1., 1.]]]])
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        return functional.dropout2d(input, self.p, self.training, self.inplace)
