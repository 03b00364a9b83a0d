"""Transposed convolution: the data gradient of a convolution, run forwards."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import explanation, trials
from ..autograd.conv_transpose import ConvTranspose2dFunction, forward
from ..memory import is_channels_last
from ..plans import PASSES, TORCH, ConvPlan
from .gate import Activation, Size, activate, needs_gradient, pair, suits, takes, whole
from .order import in_order


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    activation: Activation = None,
) -> Tensor:
    """Transposed 2-D convolution: the map whose convolution with `weight` has the input's shape.

    ``y[n, c, s·i + d·r − p] += w[k, c, r] · x[n, k, i]`` for every pixel i and tap r, both axes alike:
    the gradient of `conv2d` by its input. Its own gradient by the input is that convolution, so the
    three passes run on the kernels of `conv2d`, each where that is faster than torch's.

    Args:
        input: (N, K, H, W) or (K, H, W).
        weight: (K, C / groups, R, S).
        bias: (C), or None.
        stride, padding, dilation, groups: of the convolution.
        output_padding: rows and columns added at the end, fewer than the stride or the dilation.
        activation: None, ``"relu"`` or a callable applied to the result.

    Returns:
        (N, C, H', W'), H' = (H − 1)·stride − 2·padding + dilation·(R − 1) + output_padding + 1.

    Raises:
        RuntimeError, TypeError: torch's, for shapes that do not fit and arguments that it does not take.

    Source: Zeiler et al. 2010, "Deconvolutional Networks".

    >>> import torch, pyconvopt as pco
    >>> x, w = torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    >>> pco.functional.conv_transpose2d(x, w, stride=2).shape
    torch.Size([1, 1, 4, 4])
    """
    native = _plan(input, weight, bias, stride, padding, output_padding, groups, dilation)
    if native is None:
        y = F.conv_transpose2d(
            input, weight, bias, stride, padding, output_padding, groups, dilation
        )
        if explanation.listening():
            reason = "torch: a tensor or shape for which no kernel here is faster"
            _note("forward", TORCH, reason, input, weight, y)
        return activate(y, activation)
    plan, size = native
    channels_last = is_channels_last(input) or is_channels_last(weight)
    result_order = torch.channels_last if channels_last else torch.contiguous_format
    x = in_order(input, torch.channels_last, result_order)
    run = ConvTranspose2dFunction.apply if needs_gradient(x, weight, bias) else forward
    y = run(x, weight, bias, plan, size)
    if explanation.listening():
        kernels = (plan.data_gradient, plan.forward, plan.weight_gradient)
        reasons = (plan.reasons[1], plan.reasons[0], plan.reasons[2])
        for pass_, kernel, reason in zip(PASSES, kernels, reasons, strict=True):
            _note(pass_, kernel, reason, x, weight, y)
    return activate(y if channels_last else y.contiguous(), activation)


def _plan(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Size,
    padding: Size,
    output_padding: Size,
    groups: int,
    dilation: Size,
) -> tuple[ConvPlan, tuple[int, int]] | None:
    """The plan of the convolution that this one transposes, and the size of that one's input."""
    if not suits(input) or not suits(weight) or input.dim() != 4 or weight.dim() != 4:
        return None
    if not takes(input) or not takes(weight):
        return None
    pairs = [pair(value) for value in (stride, padding, dilation, output_padding)]
    number = whole(groups)
    if None in pairs or number is None:
        return None
    groups = number
    if groups > 1 and not is_channels_last(input):
        return None  # a depthwise pass is too short to pay for a way to channels_last and back
    channels = weight.shape[1] * groups
    if bias is not None and not (takes(bias) and bias.shape == (channels,)):
        return None
    strides, paddings, dilations, extras = pairs
    height, width = (
        (n - 1) * s - 2 * p + d * (k - 1) + extra + 1
        for n, s, p, d, k, extra in zip(
            input.shape[2:], strides, paddings, dilations, weight.shape[2:], extras, strict=True
        )
    )
    if min(height, width, *extras) < 0 or weight.shape[0] != input.shape[1]:
        return None
    shape = (input.shape[0], channels, height, width)
    problem = shape, weight.shape, strides, paddings, dilations, groups
    plan = trials.conv_plan(*problem, input, weight, gradient=True)
    if plan is None or not plan.native or plan.out_size != tuple(input.shape[2:]):
        return None
    return plan, (height, width)


def _note(pass_: str, kernel: str, reason: str, x: Tensor, weight: Tensor, y: Tensor) -> None:
    flops = 2 * x.numel() * weight[0].numel()
    explanation.note("conv_transpose2d", pass_, kernel, reason, flops, [x, weight, y])
