"""Gradients that are handed on unmade, from a batch norm to the convolution whose output it alone reads.

The gradient between the two is affine a channel in two maps that lie there anyway. A convolution that
makes it while it reads them, once for both of its own gradients, needs no memory for it, and of five passes
over maps of its size two are left.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import settings

_backward = torch.ops.pyconvopt.batch_norm_backward.default


class Unmade(NamedTuple):
    """What makes the gradient of the map in front of a batch norm in training and an activation."""

    gradient: Tensor
    """Behind both."""
    map: Tensor
    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor
    invstd: Tensor
    activation: int
    weight_gradient: Tensor
    bias_gradient: Tensor

    def made(self) -> Tensor:
        """The gradient itself."""
        g, z, weight, bias, mean, invstd, activation, *_ = self
        return _backward(
            g, z, None, None, weight, mean, invstd, True, activation, False, 0.0, True, False, bias
        )[0]


class Handover:
    """Where the batch norm's backward leaves it and the convolution's takes it."""

    def __init__(self) -> None:
        self.left: tuple[Tensor, Unmade] | None = None

    def leave(self, unmade: Unmade) -> Tensor:
        """What autograd carries in its place: zeros of the map's shape, of one element."""
        zeros = unmade.mean.new_zeros(1).expand(unmade.map.shape)
        self.left = zeros, unmade
        return zeros

    def take(self, g: Tensor) -> tuple[Tensor, Unmade | None]:
        """The gradient that has come, and what it is to be made of; made already if others came too."""
        if self.left is None:
            return g, None
        (zeros, unmade), self.left = self.left, None
        if g.data_ptr() == zeros.data_ptr():
            return g, unmade
        return g + unmade.made(), None


def offer(y: Tensor) -> None:
    """Let the batch norm that y is given to next, its only reader, hand its gradient over.

    Where y's convolution has a kernel for that, and both its gradients are wanted.
    """
    node: Any = y.grad_fn
    plan = getattr(node, "plan", None)
    if plan is None or not plan.joins_gradients or node.bias or not settings.recompute():
        return
    if all(node.needs_input_grad[:2]):
        node.handover = Handover()


def offered(x: Tensor) -> Handover | None:
    """Where a reader of x may leave its gradient."""
    return getattr(x.grad_fn, "handover", None)
