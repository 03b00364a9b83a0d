"""Autograd of convolution: each pass on the kernel its plan names, or on torch's.

``y = pool(activation(conv(x, w) + b))`` is one node of the graph. Its backward runs this library's
kernels; where a gradient of the gradient is wanted (``create_graph=True``) it is written in torch's
own differentiable operations instead, the reference path.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ..memory import memory_format
from ..plans import TORCH, ConvPlan
from .handover import Sums, Unmade
from .pool import unpool
from .recompute import Recipe, made_again, recipe
from .reference import by_reference

_conv2d = torch.ops.pyconvopt.conv2d.default
_conv2d_moments = torch.ops.pyconvopt.conv2d_moments.default
_conv2d_normalized = torch.ops.pyconvopt.conv2d_normalized.default
_normalized_weight_gradient = torch.ops.pyconvopt.conv2d_normalized_weight_gradient.default
_conv2d_max_pool = torch.ops.pyconvopt.conv2d_max_pool.default
_data_gradient = torch.ops.pyconvopt.conv2d_data_gradient.default
_weight_gradient = torch.ops.pyconvopt.conv2d_weight_gradient.default
_gradients = torch.ops.pyconvopt.conv2d_gradients.default
_max_pool_data_gradient = torch.ops.pyconvopt.conv2d_max_pool_data_gradient.default
_max_pool_weight_gradient = torch.ops.pyconvopt.conv2d_max_pool_weight_gradient.default
_channel_sum = torch.ops.pyconvopt.channel_sum.default
_relu_backward = torch.ops.pyconvopt.relu_backward.default
_max_pool = torch.ops.pyconvopt.max_pool2x2.default
_max_pool_backward = torch.ops.pyconvopt.max_pool2x2_backward.default


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, plan: ConvPlan, relu: bool) -> Tensor:
    """The forward pass alone, on the plan's kernel; `x` is dense, in the kernels' format."""
    if plan.forward != TORCH:
        return _conv2d(x, weight, bias, *plan.hyper, relu)
    sh, sw, ph, pw, dh, dw, groups = plan.hyper
    y = torch.conv2d(x, weight, bias, (sh, sw), (ph, pw), (dh, dw), groups)
    y = y.contiguous(memory_format=torch.channels_last)
    return y.relu_() if relu else y


def forward_pool(
    x: Tensor, weight: Tensor, bias: Tensor | None, plan: ConvPlan, relu: bool
) -> tuple[Tensor, Tensor]:
    """The forward pass with a 2×2 max-pool behind it, and the place of each largest value."""
    if plan.forward_pool != TORCH:
        return _conv2d_max_pool(x, weight, bias, *plan.hyper, relu)
    return _max_pool(forward(x, weight, bias, plan, relu))


def gradients(
    plan: ConvPlan, x: Tensor | Recipe, weight: Tensor, dz: Tensor, need_x: bool, need_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of input and weight from that of the convolution's output."""
    dx = dw = None
    if need_x and plan.data_gradient != TORCH:
        dx = _data_gradient(dz, weight, *x.shape[2:], *plan.hyper)
        need_x = False
    if need_weight and plan.weight_gradient != TORCH:
        dw = weight_gradient(plan, x, weight, dz)
        need_weight = False
    if need_x or need_weight:
        given = stored(x) if need_weight or isinstance(x, Tensor) else x.input  # its shape alone
        other_x, other_weight, _ = _torch_backward(
            plan, dz, given, weight, None, need_x, need_weight, False
        )
        dx = other_x if need_x else dx
        dw = other_weight if need_weight else dw
    return dx, dw


def weight_gradient(plan: ConvPlan, x: Tensor | Recipe, weight: Tensor, dz: Tensor) -> Tensor:
    """On this library's kernel, which normalises an input that was not kept while it reads it."""
    if isinstance(x, Recipe) and plan.normalizes:
        return _normalized_weight_gradient(*x.norm, dz, weight, *plan.hyper)
    return _weight_gradient(stored(x), dz, weight, *plan.hyper)


def joined_gradients(
    plan: ConvPlan, x: Tensor | Recipe, weight: Tensor, unmade: Unmade, sums: Sums | None
) -> tuple[Tensor, Tensor]:
    """Gradients of input and weight, from what makes the gradient of the convolution's output.

    `sums`: where the norm in front is to find those of its own weight and bias.
    """
    if isinstance(x, Recipe) and plan.normalizes:
        dx, dw, *found = _gradients(*x.norm, *unmade, weight, *plan.hyper)
        if sums is not None:
            sums.leave(dx, *found)
        return dx, dw
    return _gradients(stored(x), None, None, None, None, 0, *unmade, weight, *plan.hyper)[:2]


def stored(x: Tensor | Recipe) -> Tensor:
    """The input itself, made again where it was not kept."""
    return made_again(x) if isinstance(x, Recipe) else x


def pool_gradients(
    plan: ConvPlan,
    x: Tensor,
    weight: Tensor,
    g: Tensor,
    argmax: Tensor,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, weight and bias from that of the pooled output."""
    spread_for_x = not need_x or plan.data_gradient_pool != TORCH
    if need_weight and spread_for_x and plan.weight_gradient_pool != TORCH:
        dx = None
        if need_x:
            dx = _max_pool_data_gradient(g, argmax, weight, *x.shape[2:], *plan.hyper)
        return dx, *_max_pool_weight_gradient(x, g, argmax, weight, *plan.hyper)
    dz, db = _max_pool_backward(g, argmax, *plan.out_size, need_bias)
    return *gradients(plan, x, weight, dz, need_x, need_weight), db


def _torch_backward(
    plan: ConvPlan,
    dz: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: list[int] | None,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    sh, sw, ph, pw, dh, dw, groups = plan.hyper
    return torch.ops.aten.convolution_backward(
        dz, x, weight, bias_sizes, (sh, sw), (ph, pw), (dh, dw), False, (0, 0), groups,
        (need_x, need_weight, need_bias),
    )  # fmt: skip


def _reference_gradients(
    ctx: Any, x: Tensor, weight: Tensor, dz: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, weight and bias in torch's differentiable operations."""
    bias_sizes = [weight.shape[0]] if ctx.bias else None
    return _torch_backward(ctx.plan, dz, x, weight, bias_sizes, *ctx.needs_input_grad[:3])


def _keep(ctx: Any, x: Tensor, found: Recipe | None, *others: Tensor | None) -> None:
    """Keep the input for backward, or what makes it again, and other tensors."""
    ctx.again = None if found is None else found.options
    ctx.sums = None if found is None else getattr(x.grad_fn, "sums", None)
    ctx.save_for_backward(*others, *((x,) if found is None else found.tensors))


def _kept(ctx: Any, others: int) -> tuple[Any, ...]:
    """The input or what makes it again, and that many other tensors."""
    saved = ctx.saved_tensors
    rest = saved[others:]
    return rest[0] if ctx.again is None else Recipe(ctx.again, rest), *saved[:others]


def _recipe(ctx: Any, x: Tensor) -> Recipe | None:
    """How to make the input again, where that is needed and worthwhile."""
    # Without a gradient of the weight the input is not needed, but its shape is.
    return recipe(x) if ctx.needs_input_grad[1] else None


class Conv2dFunction(Function):
    """``activation(conv(x, weight) + bias)`` with its gradient."""

    @staticmethod
    def forward(ctx, x, weight, bias, plan, relu):  # noqa: D102
        y = forward(x, weight, bias, plan, relu)
        ctx.plan, ctx.relu, ctx.bias = plan, relu, bias is not None
        _keep(ctx, x, _recipe(ctx, x), weight, y if relu else None)
        return y

    @staticmethod
    def backward(ctx, g):  # noqa: D102
        x, weight, y = _kept(ctx, 2)
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        if by_reference(g):
            dz = g * (y > 0) if ctx.relu else g
            return *_reference_gradients(ctx, stored(x), weight, dz), None, None
        handover = getattr(ctx, "handover", None)
        if handover is not None:
            g, unmade = handover.take(g)
            if unmade is not None:
                return *joined_gradients(ctx.plan, x, weight, unmade, ctx.sums), None, None, None
        dz, db = (
            g.contiguous(memory_format=memory_format(x if isinstance(x, Tensor) else x.input)),
            None,
        )
        if ctx.relu:
            dz, db = _relu_backward(dz, y, need_bias)
        elif need_bias:
            db = _channel_sum(dz)
        dx, dw = gradients(ctx.plan, x, weight, dz, need_x, need_weight)
        return dx, dw, db if need_bias else None, None, None


class Conv2dMomentsFunction(Conv2dFunction):
    """``conv(x, weight) + bias``, and the statistics of its channels, which have no gradient."""

    @staticmethod
    def forward(ctx, x, weight, bias, plan):  # type: ignore[override]  # noqa: D102
        y, moments = _conv2d_moments(x, weight, bias, *plan.hyper)
        ctx.plan, ctx.relu, ctx.bias = plan, False, bias is not None
        _keep(ctx, x, _recipe(ctx, x), weight, None)
        ctx.mark_non_differentiable(moments)
        return y, moments

    @staticmethod
    def backward(ctx, g, _):  # type: ignore[override]  # noqa: D102
        return Conv2dFunction.backward(ctx, g)[:4]


class Conv2dNormalizedFunction(Conv2dFunction):
    """``activation(conv(x, weight) + bias)`` of a map x without values, which are made while they are read.

    With `moments` also the statistics of the result's channels.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, plan, relu, made_from, moments):  # type: ignore[override]  # noqa: D102
        y, statistics = _conv2d_normalized(
            *made_from.norm, weight, bias, *plan.hyper, relu, moments
        )
        ctx.plan, ctx.relu, ctx.bias = plan, relu, bias is not None
        _keep(ctx, x, made_from, weight, y if relu else None)
        ctx.mark_non_differentiable(statistics)
        return y, statistics

    @staticmethod
    def backward(ctx, g, _):  # type: ignore[override]  # noqa: D102
        return *Conv2dFunction.backward(ctx, g), None, None


class Conv2dMaxPoolFunction(Function):
    """``max_pool(relu(conv(x, weight) + bias), 2)``: the map before the pool is never stored."""

    @staticmethod
    def forward(ctx, x, weight, bias, plan, relu):  # noqa: D102
        y, argmax = forward_pool(x, weight, bias, plan, relu)
        ctx.plan, ctx.bias = plan, bias is not None
        _keep(ctx, x, _recipe(ctx, x), weight, argmax)
        return y

    @staticmethod
    def backward(ctx, g):  # noqa: D102
        x, weight, argmax = _kept(ctx, 2)
        x = stored(x)
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        if by_reference(g):
            dz = unpool(g, argmax, *ctx.plan.out_size)
            return *_reference_gradients(ctx, x, weight, dz), None, None
        g = g.contiguous(memory_format=torch.channels_last)
        dx, dw, db = pool_gradients(ctx.plan, x, weight, g, argmax, need_x, need_weight, need_bias)
        return dx, dw, db if need_bias else None, None, None
