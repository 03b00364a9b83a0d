"""Autograd of transposed convolution: the passes of a convolution with their roles exchanged.

For the convolution z ↦ x that is transposed, the forward pass is the gradient by z, the gradient by
the input is the forward pass, and the weight's gradient is the same with the two maps exchanged.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ..plans import TORCH, ConvPlan
from .conv import forward as convolution
from .reference import by_reference

_data_gradient = torch.ops.pyconvopt.conv2d_data_gradient.default
_weight_gradient = torch.ops.pyconvopt.conv2d_weight_gradient.default
_channel_sum = torch.ops.pyconvopt.channel_sum.default


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, plan: ConvPlan, size: tuple[int, int]
) -> Tensor:
    """The transposed convolution; `x` is dense channels_last, `size` the result's height and width."""
    if plan.data_gradient != TORCH:
        y = _data_gradient(x, weight, *size, *plan.hyper)
        return y if bias is None else y.add_(bias.view(-1, 1, 1))
    stride, padding, dilation, groups = _torch_arguments(plan)
    extra = _output_padding(plan, x, weight, size)
    y = torch.conv_transpose2d(x, weight, bias, stride, padding, extra, groups, dilation)
    return y.contiguous(memory_format=torch.channels_last)


class ConvTranspose2dFunction(Function):
    """``conv_transpose(x, weight) + bias`` with its gradient."""

    @staticmethod
    def forward(ctx, x, weight, bias, plan, size):  # noqa: D102
        ctx.plan, ctx.size = plan, size
        ctx.save_for_backward(x, weight)
        return forward(x, weight, bias, plan, size)

    @staticmethod
    def backward(ctx, g):  # noqa: D102
        x, weight = ctx.saved_tensors
        plan: ConvPlan = ctx.plan
        need_x, need_weight, need_bias = needed = ctx.needs_input_grad[:3]
        if by_reference(g):
            return *_torch_backward(ctx, g, x, weight, needed), None, None
        g = g.contiguous(memory_format=torch.channels_last)
        dx = convolution(g, weight, None, plan, False) if need_x else None
        dw = None
        if need_weight and plan.weight_gradient != TORCH:
            dw = _weight_gradient(g, x, weight, *plan.hyper)
        elif need_weight:
            _, dw, _ = _torch_backward(ctx, g, x, weight, (False, True, False))
        return dx, dw, _channel_sum(g) if need_bias else None, None, None


def _torch_backward(
    ctx: Any, g: Tensor, x: Tensor, weight: Tensor, needed: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, weight and bias in one differentiable operation of torch."""
    stride, padding, dilation, groups = _torch_arguments(ctx.plan)
    extra = _output_padding(ctx.plan, x, weight, ctx.size)
    return torch.ops.aten.convolution_backward(
        g, x, weight, [g.shape[1]], stride, padding, dilation, True, extra, groups, needed
    )


def _torch_arguments(plan: ConvPlan) -> tuple[Any, Any, Any, int]:
    sh, sw, ph, pw, dh, dw, groups = plan.hyper
    return (sh, sw), (ph, pw), (dh, dw), groups


def _output_padding(
    plan: ConvPlan, x: Tensor, weight: Tensor, size: tuple[int, int]
) -> tuple[int, int]:
    """What the result has beyond the smallest map whose convolution has the input's shape."""
    stride, padding, dilation, _ = _torch_arguments(plan)
    height, width = (
        wanted - ((n - 1) * s - 2 * p + d * (k - 1) + 1)
        for wanted, n, s, p, d, k in zip(
            size, x.shape[2:], stride, padding, dilation, weight.shape[2:], strict=True
        )
    )
    return height, width
