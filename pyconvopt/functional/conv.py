"""Convolution, alone and together with 2×2 max-pooling."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import cuda, explanation, trials
from ..autograd import conv as autograd
from ..autograd.recompute import UnstoredMap, stored
from ..memory import is_channels_last
from ..plans import PASSES, POOLED, TORCH, ConvPlan, conv_plan, torch_overruns
from .gate import Activation, Size, activate, needs_gradient, pair, suits, whole
from .order import InOrder, in_order
from .pool import max_pool2d

MOMENTS = "statistics for batch norm in the same pass; "


def conv2d(
    input: Tensor | UnstoredMap,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    activation: Activation = None,
) -> Tensor:
    """2-D convolution, ``y[n,k] = b[k] + Σ_c w[k,c] ⋆ x[n,c]``, with an activation in the same pass.

    Args:
        input: (N, C, H, W) or (C, H, W).
        weight: (K, C / groups, R, S).
        bias: (K), or None.
        stride, padding, dilation, groups: as ``torch.nn.functional.conv2d``.
        activation: None, ``"relu"`` (fused with the bias), or a callable applied to the result.

    Returns:
        (N, K, H', W'), H' = ⌊(H + 2·padding − dilation·(R − 1) − 1) / stride⌋ + 1, in channels_last
        memory where input or weight is, as torch does.

    Raises:
        RuntimeError, TypeError: torch's, for shapes that do not fit and arguments that it does not take.

    Source: Lavin and Gray 2015 (arXiv:1509.09308) for 3×3 and 5×5 with stride 1; the largest error
    is at most 2e-5 of the result's RMS (``settings(winograd=False)`` gives direct convolution's).

    >>> import torch, pyconvopt as pco
    >>> x, w = torch.ones(1, 1, 3, 3), torch.ones(2, 1, 3, 3)
    >>> pco.functional.conv2d(x, w, padding=1, activation="relu").shape
    torch.Size([1, 2, 3, 3])
    """
    fused = activation == "relu"
    geometry = stride, padding, dilation, groups
    if isinstance(input, UnstoredMap):
        joined = _normalized(input, weight, bias, geometry, fused, moments=False)
        if joined is not None:
            return joined[0] if fused else activate(joined[0], activation)
        input = input.stored()
    call = _planned(input, weight, bias, *geometry)
    if call is None or not call[1].native:
        y = _torch_conv2d(input, weight, bias, *geometry)
        if explanation.listening() and call is not None:
            _explain("conv2d", call[1], PASSES, call[0], weight)
        elif explanation.listening():
            reason = "torch: dtype, device, transform or shape that no kernel here takes"
            flops = 2 * y.numel() * weight[0].numel()
            explanation.note("conv2d", "forward", TORCH, reason, flops, [input, weight, y])
        return activate(y, activation)
    x, plan, channels_last = _in_format(*call, weight)
    if explanation.listening():
        _explain("conv2d", plan, PASSES, x, weight)
    if needs_gradient(x, weight, bias):
        y = autograd.Conv2dFunction.apply(x, weight, bias, plan, fused)
    else:
        y = autograd.forward(x, weight, bias, plan, fused)
    if not channels_last:
        y = y.contiguous()
    return y if fused else activate(y, activation)


def conv2d_moments(
    input: Tensor | UnstoredMap,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor | None]:
    """`conv2d`, and what `batch_norm` takes as `moments` to save its pass over the map in training.

    Where the convolution's kernel cannot take the statistics on its way they are None, and batch norm
    reads the map for them as always.

    Returns:
        The map, and (pieces, 2·K + 1): of a piece of the rows the K means, the K sums of squared
        differences from these, and how many rows it has. They are merged in double (Chan, Golub and
        LeVeque 1983).

    >>> import torch, pyconvopt as pco
    >>> y, moments = pco.functional.conv2d_moments(torch.ones(1, 1, 6, 6), torch.ones(16, 1, 3, 3))
    >>> float(moments[0, 0]), float(moments[0, -1])
    (9.0, 16.0)
    """
    geometry = stride, padding, dilation, groups
    if isinstance(input, UnstoredMap):
        joined = _normalized(input, weight, bias, geometry, relu=False, moments=True)
        if joined is not None:
            return joined
        input = input.stored()
    call = _planned(input, weight, bias, *geometry)
    if call is None or not call[1].moments or call[1].forward == TORCH:
        return conv2d(input, weight, bias, *geometry), None
    x, plan, channels_last = _in_format(*call, weight)
    if explanation.listening():
        _explain("conv2d", plan, PASSES, x, weight, MOMENTS)
    y, moments = autograd.Conv2dMomentsFunction.apply(x, weight, bias, plan)
    return y if channels_last else y.contiguous(), moments


def conv2d_max_pool(
    input: Tensor | UnstoredMap,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    activation: Activation = None,
) -> Tensor:
    """``max_pool2d(activation(conv2d(…)), 2)``, for None or ``"relu"`` without storing the map between.

    Arguments as `conv2d`. Where the fused kernel does not apply the two are run one after the other.

    >>> import torch, pyconvopt as pco
    >>> x, w = torch.ones(1, 1, 6, 6), torch.ones(16, 1, 3, 3)
    >>> pco.functional.conv2d_max_pool(x, w, activation="relu").shape
    torch.Size([1, 16, 2, 2])
    """
    input, call = stored(input), None
    if activation is None or activation == "relu":
        call = _planned(input, weight, bias, stride, padding, dilation, groups, pool=True)
    if call is None or call[1].forward_pool == TORCH or min(call[1].out_size) < 2:
        y = conv2d(input, weight, bias, stride, padding, dilation, groups, activation=activation)
        return max_pool2d(y, 2)
    x, plan, channels_last = _in_format(*call, weight)
    if explanation.listening():
        joined = TORCH not in (plan.data_gradient_pool, plan.weight_gradient_pool)
        ran = POOLED if joined else (POOLED[0], *PASSES[1:])
        _explain("conv2d_max_pool", plan, ran, x, weight, "max-pool in the same pass; ")
    y = autograd.Conv2dMaxPoolFunction.apply(x, weight, bias, plan, activation == "relu")
    return y if channels_last else y.contiguous()


def _normalized(
    input: UnstoredMap,
    weight: Tensor,
    bias: Tensor | None,
    geometry: tuple[Size, Size | str, Size, int],
    relu: bool,
    moments: bool,
) -> tuple[Tensor, Tensor | None] | None:
    """The convolution of a map that it makes while it reads, and its statistics; None: no kernel does."""
    x, made_from = input
    z = made_from.input
    call = _planned(z, weight, bias, *geometry)
    if call is None or call[0] is not z or not call[1].joins_norm:
        return None
    plan = call[1]
    moments = moments and plan.moments
    if explanation.listening():
        also = "batch norm of its input in the same pass; " + MOMENTS * moments
        _explain("conv2d", plan, PASSES, z, weight, also)
    y, statistics = autograd.Conv2dNormalizedFunction.apply(
        x, weight, bias, plan, relu, made_from, moments
    )
    return y, statistics if moments else None


def _planned(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Size,
    padding: Size | str,
    dilation: Size,
    groups: int,
    pool: bool = False,
) -> tuple[Tensor, ConvPlan] | None:
    """The input, padded where padding is uneven, and its plan; None where torch is to be called."""
    if not suits(input) or not suits(weight) or input.dim() != 4 or weight.dim() != 4:
        return None
    if bias is not None and not (
        suits(bias) and bias.shape == weight.shape[:1] and bias.is_contiguous()
    ):
        return None
    on_cuda = input.is_cuda
    if on_cuda and not _fits_cuda(input, weight, bias):
        return None
    pair_stride, pair_dilation, whole_groups = pair(stride), pair(dilation), whole(groups)
    if pair_stride is None or pair_dilation is None or whole_groups is None:
        return None
    x = input
    if isinstance(padding, str):
        resolved = _resolve_padding(padding, weight, pair_stride, pair_dilation)
        if resolved is None:
            return None
        pair_padding, extra = resolved
        if any(extra):
            x = F.pad(x, (0, extra[1], 0, extra[0]))
    else:
        pair_padding = pair(padding)
        if pair_padding is None:
            return None
    problem = x.shape, weight.shape, pair_stride, pair_padding, pair_dilation, whole_groups
    if on_cuda:
        plan = conv_plan(*problem, on_cuda=True)
        return None if plan is None or (plan.native and not cuda.ready(x)) else (x, plan)
    gradient = needs_gradient(x, weight, bias)
    plan = trials.conv_plan(*problem, x, weight, gradient=gradient, pool=pool)
    return None if plan is None else (x, plan)


def _in_format(x: Tensor, plan: ConvPlan, weight: Tensor) -> tuple[Tensor, ConvPlan, bool]:
    """The input, dense in the kernels' format, its plan, and whether the result is channels_last."""
    channels_last = is_channels_last(x) or is_channels_last(weight)
    result_order = torch.channels_last if channels_last else torch.contiguous_format
    order = result_order if x.is_cuda else torch.channels_last
    return in_order(x, order, result_order), plan, channels_last


def _torch_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Size,
    padding: Size | str,
    dilation: Size,
    groups: int,
) -> Tensor:
    """Torch's convolution; strided 1×1 over the few pixels it reads, where its gradient overruns."""
    maps = suits(input) and suits(weight) and input.is_cpu and input.dim() == weight.dim() == 4
    strides = pair(stride) if maps else None
    if strides and torch_overruns(weight.shape, strides):
        valid = isinstance(padding, str) and padding == "valid"
        (down, right), borders = strides, (0, 0) if valid else pair(padding)
        if borders and min(down, right) > 0 and min(borders) >= 0:
            rows, columns = borders
            channels_last = is_channels_last(input) or is_channels_last(weight)
            order = torch.channels_last if channels_last else torch.contiguous_format
            padded = F.pad(InOrder.apply(input, order, order), (columns, columns, rows, rows))
            input = padded[:, :, ::down, ::right].contiguous(memory_format=order)
            stride, padding = 1, 0
    # By name, so that torch's errors tell which of them is wrong.
    geometry: Any = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return F.conv2d(input, weight, bias, **geometry)


def _fits_cuda(input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether all are float32 tensors of one GPU, and autocast is not to choose their type."""
    return not torch.is_autocast_enabled("cuda") and all(
        t.dtype is torch.float32 and t.device == input.device
        for t in (input, weight, *(() if bias is None else (bias,)))
    )


def _resolve_padding(
    padding: str, weight: Tensor, stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """(padding, extra rows and columns at the end) of 'same' and 'valid'; None where torch refuses."""
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding != "same" or stride != (1, 1):
        return None
    reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    return (reach[0] // 2, reach[1] // 2), (reach[0] % 2, reach[1] % 2)


def _explain(
    op: str, plan: ConvPlan, ran: tuple[str, ...], x: Tensor, weight: Tensor, also: str = ""
) -> None:
    """Rows for the three passes, of which the plan's fields `ran` are run; what forward does `also`."""
    y = (x.shape[0], weight.shape[0], *plan.out_size)
    flops = (
        2 * weight[0].numel() * x.shape[0] * weight.shape[0] * plan.out_size[0] * plan.out_size[1]
    )
    for name, field in zip(PASSES, ran, strict=True):
        joined = field in POOLED or name == "forward"
        reason = also * joined + plan.why[field]
        explanation.note(op, name, getattr(plan, field), reason, flops, [x, weight, y])
