"""2×2 max-pooling that remembers one byte an output, average pooling that keeps nothing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from ..memory import memory_format
from .reference import by_reference

_max_pool = torch.ops.pyconvopt.max_pool2x2.default
_max_pool_backward = torch.ops.pyconvopt.max_pool2x2_backward.default
_avg_pool_backward = torch.ops.pyconvopt.avg_pool2d_backward.default


class MaxPool2x2Function(Function):
    """``max_pool2d(x, 2)`` of a dense map in the kernels' format."""

    @staticmethod
    def forward(ctx, x):  # noqa: D102
        y, argmax = _max_pool(x)
        ctx.size, ctx.format = (x.shape[2], x.shape[3]), memory_format(x)
        ctx.save_for_backward(argmax)
        return y

    @staticmethod
    def backward(ctx, g):  # noqa: D102
        (argmax,) = ctx.saved_tensors
        if by_reference(g):
            return unpool(g, argmax, *ctx.size)
        g = g.contiguous(memory_format=ctx.format)
        return _max_pool_backward(g, argmax, *ctx.size, False)[0]


def unpool(g: Tensor, argmax: Tensor, height: int, width: int) -> Tensor:
    """The gradient before a 2×2 pool, in differentiable operations of torch.

    `argmax` holds 0..3, the position in the window, or more where no gradient passes.
    """
    positions = torch.arange(4, dtype=torch.uint8, device=g.device).view(4, 1, 1, 1, 1)
    spread = (g * (argmax == positions)).view(2, 2, *g.shape)
    rows, columns = g.shape[2], g.shape[3]
    dz = spread.permute(2, 3, 4, 0, 5, 1).reshape(*g.shape[:2], 2 * rows, 2 * columns)
    return torch.nn.functional.pad(dz, (0, width - 2 * columns, 0, height - 2 * rows))


class AveragePoolFunction(Function):
    """An average pool of torch's, which keeps nothing but shapes, with this library's gradient."""

    @staticmethod
    def forward(ctx, x, by_torch, windows):  # noqa: D102
        ctx.shape, ctx.by_torch, ctx.windows = x.shape, by_torch, windows
        return by_torch(x)

    @staticmethod
    def backward(ctx, g):  # noqa: D102
        if by_reference(g):  # the pool is linear: its gradient anywhere is that at 0
            with torch.enable_grad():
                x = torch.zeros(ctx.shape, dtype=g.dtype, device=g.device, requires_grad=True)
                return *torch.autograd.grad(ctx.by_torch(x), x, g, create_graph=True), None, None
        g = g.contiguous(memory_format=torch.channels_last)
        return _avg_pool_backward(g, *ctx.shape[2:], *ctx.windows), None, None
