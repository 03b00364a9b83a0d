"""Loss modules."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import functional
from .scripting import scriptable


@scriptable
class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """``torch.nn.CrossEntropyLoss``, its gradient made with the loss (`functional.cross_entropy`).

    >>> import torch, pyconvopt as pco
    >>> pco.nn.CrossEntropyLoss(label_smoothing=0.1)(torch.zeros(3, 4), torch.tensor([0, 2, 1]))
    tensor(1.3863)
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:  # noqa: D102
        return functional.cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )
