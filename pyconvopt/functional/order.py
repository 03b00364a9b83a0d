"""Maps that the kernels take in another order than torch does, whose gradients come back in torch's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from ..autograd.reference import is_batched
from .gate import needs_gradient


class InOrder(Function):
    """The map in one memory format, its gradient in another."""

    @staticmethod
    def forward(ctx, x, order, gradient_order):  # noqa: D102
        ctx.order = gradient_order
        return x.contiguous(memory_format=order)

    @staticmethod
    def backward(ctx, g):  # noqa: D102
        return g if is_batched(g) else g.contiguous(memory_format=ctx.order), None, None


def in_order(x: Tensor, order: torch.memory_format, gradient_order: torch.memory_format) -> Tensor:
    """The map in one memory format; where they differ and it has a gradient, that in the other."""
    if order is gradient_order or not needs_gradient(x):
        return x.contiguous(memory_format=order)
    return InOrder.apply(x, order, gradient_order)
