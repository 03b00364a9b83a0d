"""Cross-entropy of softmax as one node, whose gradient is made with the loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from .reference import by_reference

loss_and_gradient = torch.ops.pyconvopt.cross_entropy.default

# In the order of `Reduction` in csrc/kernels/cross_entropy.hpp.
REDUCTIONS = ("none", "mean", "sum")


class CrossEntropyFunction(Function):
    """``cross_entropy(x, target, weight)`` of a contiguous matrix of logits.

    The options are the number of the reduction, ``ignore_index`` and ``label_smoothing``.
    """

    @staticmethod
    def forward(ctx, x, target, weight, options):  # noqa: D102
        loss, ctx.gradient = loss_and_gradient(x, target, weight, *options, True)
        ctx.options = options
        ctx.save_for_backward(x, target, weight)
        return loss

    @staticmethod
    def backward(ctx, g):  # noqa: D102
        x, target, weight = ctx.saved_tensors
        if by_reference(g):
            return _reference_backward(x, target, weight, ctx.options, g), None, None, None
        # Given away, and written over: another pass through a retained graph makes it again.
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            gradient = loss_and_gradient(x, target, weight, *ctx.options, True)[1]
        if g.dim():
            gradient.mul_(g.unsqueeze(1))
        elif g.item() != 1:
            gradient.mul_(g)
        return gradient, None, None, None


def _reference_backward(
    x: Tensor, target: Tensor, weight: Tensor | None, options: tuple[int, int, float], g: Tensor
) -> Tensor:
    """The gradient in torch's differentiable operations."""
    reduction, ignore_index, label_smoothing = options
    with torch.enable_grad():
        x = x.view_as(x)
        loss = F.cross_entropy(
            x,
            target,
            weight,
            ignore_index=ignore_index,
            reduction=REDUCTIONS[reduction],
            label_smoothing=label_smoothing,
        )
        (gradient,) = torch.autograd.grad(loss, x, g, create_graph=True)
    return gradient
