"""Max-pooling that remembers one byte an output, average pooling that keeps nothing."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from ..memory import memory_format
from .recompute import Recipe
from .reference import by_reference

_max_pool2x2 = torch.ops.pyconvopt.max_pool2x2.default
_max_pool2x2_backward = torch.ops.pyconvopt.max_pool2x2_backward.default
_max_pool = torch.ops.pyconvopt.max_pool2d.default
_max_pool_backward = torch.ops.pyconvopt.max_pool2d_backward.default
_avg_pool_backward = torch.ops.pyconvopt.avg_pool2d_backward.default


class MaxPool2x2Function(Function):
    """``max_pool2d(x, 2)`` of a dense map in the kernels' format."""

    @staticmethod
    def forward(ctx, x):  # noqa: D102
        y, argmax = _max_pool2x2(x)
        ctx.size, ctx.format = (x.shape[2], x.shape[3]), memory_format(x)
        ctx.save_for_backward(argmax)
        return y

    @staticmethod
    def backward(ctx, g):  # noqa: D102
        (argmax,) = ctx.saved_tensors
        if by_reference(g):
            return unpool(g, argmax, *ctx.size)
        g = g.contiguous(memory_format=ctx.format)
        return _max_pool2x2_backward(g, argmax, *ctx.size, False)[0]


def unpool(g: Tensor, argmax: Tensor, height: int, width: int) -> Tensor:
    """The gradient before a 2×2 pool, in differentiable operations of torch.

    `argmax` holds 0..3, the position in the window, or more where no gradient passes.
    """
    positions = torch.arange(4, dtype=torch.uint8, device=g.device).view(4, 1, 1, 1, 1)
    spread = (g * (argmax == positions)).view(2, 2, *g.shape)
    rows, columns = g.shape[2], g.shape[3]
    dz = spread.permute(2, 3, 4, 0, 5, 1).reshape(*g.shape[:2], 2 * rows, 2 * columns)
    return torch.nn.functional.pad(dz, (0, width - 2 * columns, 0, height - 2 * rows))


class Windows(NamedTuple):
    """Those of a pool, each of them a height and a width."""

    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    @property
    def hyper(self) -> tuple[int, ...]:
        """As the operators take them."""
        return *self.size, *self.stride, *self.padding


class MaxPoolFunction(Function):
    """``max_pool2d`` of a dense channels_last map, or of the one that a recipe makes, to `pooled` pixels."""

    @staticmethod
    def forward(ctx, x, made_from: Recipe | None, windows: Windows, pooled):  # noqa: D102
        read = (x, None, None, None, None, 0) if made_from is None else made_from.norm
        y, argmax = _max_pool(*read, *pooled, *windows.hyper)
        ctx.size, ctx.windows = (x.shape[2], x.shape[3]), windows
        ctx.save_for_backward(argmax)
        return y

    @staticmethod
    def backward(ctx, g):  # noqa: D102
        (argmax,) = ctx.saved_tensors
        if by_reference(g):
            return unpool_windows(g, argmax, *ctx.size, ctx.windows), None, None, None
        g = g.contiguous(memory_format=torch.channels_last)
        dx = _max_pool_backward(g, argmax, *ctx.size, *ctx.windows.hyper)
        return dx, None, None, None


def unpool_windows(g: Tensor, argmax: Tensor, height: int, width: int, windows: Windows) -> Tensor:
    """The gradient before a pool of any windows, in differentiable operations of torch."""
    (_, columns), (down, right), (above, left) = windows
    position = argmax.long()
    corner_y = torch.arange(g.shape[2]).view(-1, 1) * down - above
    corner_x = torch.arange(g.shape[3]) * right - left
    places = (corner_y + position // columns) * width + corner_x + position % columns
    maps = g.shape[:2]
    zeros = torch.zeros(*maps, height * width, dtype=g.dtype, device=g.device)
    spread = zeros.scatter_add(2, places.flatten(2), g.reshape(*maps, -1))
    return spread.reshape(*maps, height, width)


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
