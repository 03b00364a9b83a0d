"""What a batch norm's backward and that of a convolution beside it leave for one another.

The gradient between a convolution and the batch norm that alone reads its output is affine a channel in two
maps that lie there anyway: the norm leaves it unmade. A convolution that makes it while it reads them, once
for both of its own gradients, needs no memory for it, and of five passes over maps of its size two are left.

A convolution that normalises what it reads has in its cache the gradient and the map that the norm's backward
sums up: it leaves the sums, and another pass over both is saved.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import settings

_input_gradient = torch.ops.pyconvopt.batch_norm_input_gradient.default


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
        return _input_gradient(*self)


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


class Sums:
    """Where the convolution's backward leaves the gradients of the norm's weight and bias."""

    def __init__(self) -> None:
        self.left: tuple[Tensor, int, tuple[Tensor, Tensor]] | None = None

    def leave(self, gradient: Tensor, weight_gradient: Tensor, bias_gradient: Tensor) -> None:
        """With the gradient behind norm and activation that they were summed up from."""
        self.left = gradient, gradient._version, (weight_gradient, bias_gradient)

    def take(self, g: Tensor) -> tuple[Tensor, Tensor] | None:
        """If this very gradient has come, and no other was added to it."""
        if self.left is None:
            return None
        (gradient, version, sums), self.left = self.left, None
        same = g.data_ptr() == gradient.data_ptr() and g.stride() == gradient.stride()
        return sums if same and g._version == version else None


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
