"""The operators ``torch.ops.pyconvopt.*``: their shapes for tracing, and which kernels a call gets.

The operators take float32 tensors on the CPU in dense channels_last memory, and CUDA tensors in
either format; `pyconvopt.functional` brings any other tensor into that form or hands it to torch.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from . import _C, settings
from .memory import memory_format

PASSES = ("forward", "data_gradient", "weight_gradient")
TORCH = "torch"


class ConvSize(NamedTuple):
    """What decides whether a kernel beats torch's: numbers of the input map, and of the filter."""

    elements: int
    width: int
    taps: int
    channels: int
    """The fewer of the input's and the output's."""
    strided: bool
    groups: int


def _always(pass_: str, size: ConvSize) -> bool:
    return True


def _direct(pass_: str, size: ConvSize) -> bool:
    """1×1, and gradients of strided filters: 1.0 to 1.6 times as fast as torch's on AVX-512.

    Both run at four fifths of the multipliers' peak, torch's slower where the caches are cold, faster
    with 5×5 and larger filters (by 1.1 to 2), few channels and small groups.
    """
    if size.groups > 1 or size.channels < 24:
        return False
    if size.taps == 1:
        return True
    if not size.strided or size.taps > 9:
        return False
    return pass_.startswith("weight_gradient") or (
        pass_.startswith("data_gradient") and size.channels >= 256
    )


def _depthwise(pass_: str, size: ConvSize) -> bool:
    """Both end at the memory's bandwidth for large maps, where torch's moves a little less.

    1.2 to 2.8 times as fast for small ones; gradients of 5×5 and 7×7 filters 1.6 to 7 times.
    """
    if pass_.startswith("weight_gradient"):
        small = size.elements <= 1 << (20 if size.width >= 28 else 17)
        return size.taps >= 25 or small
    return size.taps <= 9 and size.elements <= 1 << 20


# Kernels of this library that are not always the faster choice: where the rule says no, torch's is
# called, and these serve the numpy entries.
FASTER_THAN_TORCH = {"direct": _direct, "depthwise": _depthwise}


class ConvPlan(NamedTuple):
    """What a convolution of given shapes runs on: kernel names by pass, ``"torch"`` where none."""

    hyper: tuple[int, int, int, int, int, int, int]
    """stride, padding and dilation (height, width each), groups: the operators' arguments."""
    forward: str
    forward_pool: str
    data_gradient: str
    data_gradient_pool: str
    weight_gradient: str
    weight_gradient_pool: str
    reasons: tuple[str, str, str]
    out_size: tuple[int, int]

    @property
    def native(self) -> bool:
        """Whether any pass has a kernel of this library."""
        return not (self.forward == self.data_gradient == self.weight_gradient == TORCH)


def conv_plan(
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    on_cuda: bool = False,
) -> ConvPlan | None:
    """The kernels for a convolution, or None where torch is to judge the arguments (and to refuse).

    Cached by shapes and by the state of `pyconvopt.settings`.
    """
    return _conv_plan(
        tuple(input_shape),
        tuple(weight_shape),
        stride,
        padding,
        dilation,
        groups,
        on_cuda,
        settings.generation(),
    )


@lru_cache(maxsize=4096)
def _conv_plan(input_shape, weight_shape, stride, padding, dilation, groups, on_cuda, generation):
    batch, channels, height, width = input_shape
    out_channels, group_channels, *kernel = weight_shape
    if (
        min(*stride, *dilation, groups) <= 0
        or max(*stride, *dilation, *padding) >= 1 << 31
        or min(padding) < 0
        or group_channels * groups != channels
        or out_channels % groups
        or min(batch, channels, height, width, out_channels, *kernel) == 0
    ):
        return None
    out_size = tuple(
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, p, d, k, s in zip((height, width), padding, dilation, kernel, stride, strict=True)
    )
    if min(out_size) <= 0:
        return None
    hyper = (*stride, *padding, *dilation, groups)
    if on_cuda:
        return _cuda_conv_plan(input_shape, weight_shape, hyper, out_size)
    size = ConvSize(
        batch * channels * height * width,
        width,
        kernel[0] * kernel[1],
        min(channels, out_channels),
        max(stride) > 1,
        groups,
    )
    chosen, reasons = [], []
    for name in (
        "forward",
        "forward_pool",
        "data_gradient",
        "data_gradient_pool",
        "weight_gradient",
        "weight_gradient_pool",
    ):
        kernel_name, reason = _C.choose_conv(
            name,
            batch,
            channels,
            height,
            width,
            out_channels,
            tuple(kernel),
            stride,
            padding,
            dilation,
            groups,
        )
        if kernel_name == "reference":
            kernel_name, reason = TORCH, "no kernel of this library takes this shape yet"
        elif not FASTER_THAN_TORCH.get(kernel_name, _always)(name, size):
            kernel_name, reason = TORCH, f"torch's own is faster than {kernel_name!r} here"
        chosen.append(kernel_name)
        if name in PASSES:
            reasons.append(reason)
    return ConvPlan(hyper, *chosen, tuple(reasons), out_size)


def _cuda_conv_plan(input_shape, weight_shape, hyper, out_size) -> ConvPlan:
    """Depthwise on the plug-in, dense on torch's cuDNN, or on the plug-in where settings say so."""
    batch, channels, *size = input_shape
    kernel, reason = "cuda_depthwise", "groups = channels: one pass over the map"
    if not (hyper[-1] == channels == weight_shape[0]):
        kernel, reason = "cuda_implicit_gemm", 'settings(cuda_conv="native")'
        if settings.cuda_conv() == "cudnn":
            kernel, reason = TORCH, 'torch\'s cuDNN, by settings(cuda_conv="cudnn")'
    if (
        batch * max(math.prod(size), math.prod(out_size)) >= 1 << 30
        or max(*hyper, *weight_shape) >= 1 << 15
    ):
        kernel, reason = TORCH, "larger than the plug-in counts"
    return ConvPlan(hyper, kernel, TORCH, kernel, TORCH, kernel, TORCH, (reason,) * 3, out_size)


def _out_size(input: Tensor, weight: Tensor, hyper: tuple[int, ...]) -> tuple[int, int]:
    sh, sw, ph, pw, dh, dw = hyper[:6]
    height = (input.shape[2] + 2 * ph - dh * (weight.shape[2] - 1) - 1) // sh + 1
    width = (input.shape[3] + 2 * pw - dw * (weight.shape[3] - 1) - 1) // sw + 1
    return height, width


def _empty_map(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    order = memory_format(like)
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=order)


@torch.library.register_fake("pyconvopt::conv2d")
def _(input, weight, bias, sh, sw, ph, pw, dh, dw, groups, relu):
    height, width = _out_size(input, weight, (sh, sw, ph, pw, dh, dw))
    return _empty_map(input, input.shape[0], weight.shape[0], height, width)


@torch.library.register_fake("pyconvopt::conv2d_max_pool")
def _(input, weight, bias, sh, sw, ph, pw, dh, dw, groups, relu):
    height, width = _out_size(input, weight, (sh, sw, ph, pw, dh, dw))
    shape = (input.shape[0], weight.shape[0], height // 2, width // 2)
    return _empty_map(input, *shape), _empty_map(input, *shape, dtype=torch.uint8)


@torch.library.register_fake("pyconvopt::conv2d_data_gradient")
def _(output_gradient, weight, height, width, sh, sw, ph, pw, dh, dw, groups):
    return _empty_map(
        output_gradient, output_gradient.shape[0], weight.shape[1] * groups, height, width
    )


@torch.library.register_fake("pyconvopt::conv2d_max_pool_data_gradient")
def _(output_gradient, argmax, weight, height, width, sh, sw, ph, pw, dh, dw, groups):
    return _empty_map(
        output_gradient, output_gradient.shape[0], weight.shape[1] * groups, height, width
    )


def _empty_like_weight(weight: Tensor) -> Tensor:
    """Of the weight's own strides where it is dense, as the operators allocate its gradient."""
    dense = weight.is_contiguous() or weight.is_contiguous(memory_format=torch.channels_last)
    gradient = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
    return gradient.as_strided(weight.shape, weight.stride()) if dense else gradient


@torch.library.register_fake("pyconvopt::conv2d_weight_gradient")
def _(input, output_gradient, weight, sh, sw, ph, pw, dh, dw, groups):
    return _empty_like_weight(weight)


@torch.library.register_fake("pyconvopt::conv2d_max_pool_weight_gradient")
def _(input, output_gradient, argmax, weight, sh, sw, ph, pw, dh, dw, groups):
    return _empty_like_weight(weight), weight.new_empty(weight.shape[0])


# --- Elementwise operators: batch norm, activations, dropout, pooling, optimisers -------------------


def _nothing(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Stands for an output that was not asked for."""
    return torch.empty(0, dtype=dtype or like.dtype, device=like.device)


def _empty_rows(like: Tensor) -> Tensor:
    return _empty_map(like, *like.shape) if like.dim() == 4 else torch.empty_like(like)


def _empty_pooled(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    batch, channels, height, width = like.shape
    return _empty_map(like, batch, channels, height // 2, width // 2, dtype=dtype)


def _channels(like: Tensor) -> Tensor:
    return torch.empty(like.shape[1], dtype=like.dtype, device=like.device)


@torch.library.register_fake("pyconvopt::conv2d_prepared")
def _(input, prepared, weight, bias, residual, sh, sw, ph, pw, dh, dw, groups, activation):
    size = _out_size(input, weight, (sh, sw, ph, pw, dh, dw))
    return _empty_map(input, input.shape[0], weight.shape[0], *size)


def _statistics(like: Tensor) -> Tensor:
    return torch.empty(like.shape[1], dtype=torch.float32, device=like.device)


@torch.library.register_fake("pyconvopt::batch_norm_forward")
def _(
    input,
    weight,
    bias,
    residual,
    mean,
    var,
    training,
    momentum,
    eps,
    activation,
    pool,
    p,
    seed,
    offset,
):
    if pool:
        output, argmax = _empty_pooled(input), _empty_pooled(input, torch.uint8)
    else:
        output, argmax = _empty_rows(input), _nothing(input, torch.uint8)
    return output, argmax, _statistics(input), _statistics(input)


@torch.library.register_fake("pyconvopt::batch_norm_again")
def _(input, weight, bias, mean, invstd, activation):
    return _empty_rows(input)


@torch.library.register_fake("pyconvopt::batch_norm_backward")
def _(
    output_gradient,
    input,
    output,
    argmax,
    weight,
    mean,
    invstd,
    training,
    activation,
    pool,
    p,
    input_needed,
    residual_needed,
    bias=None,
):
    return (
        _empty_rows(input) if input_needed else _nothing(input),
        _empty_rows(input) if residual_needed else _nothing(input),
        _statistics(input),
        _statistics(input),
    )


@torch.library.register_fake("pyconvopt::relu")
def _(input):
    return torch.empty_like(input)


@torch.library.register_fake("pyconvopt::relu_backward")
def _(output_gradient, output, channel_sum):
    return torch.empty_like(output), _channels(output) if channel_sum else _nothing(output)


@torch.library.register_fake("pyconvopt::activation")
def _(input, function, alpha, scale):
    return torch.empty_like(input)


@torch.library.register_fake("pyconvopt::activation_backward")
def _(output_gradient, kept, function, alpha, scale):
    return torch.empty_like(kept)


@torch.library.register_fake("pyconvopt::channel_sum")
def _(input):
    return _channels(input)


@torch.library.register_fake("pyconvopt::dropout")
def _(input, p, seed, offset):
    return torch.empty_like(input)


@torch.library.register_fake("pyconvopt::dropout_channels")
def _(input, p, seed, offset):
    return _empty_map(input, *input.shape)


@torch.library.register_fake("pyconvopt::max_pool2x2")
def _(input):
    return _empty_pooled(input), _empty_pooled(input, torch.uint8)


@torch.library.register_fake("pyconvopt::max_pool2x2_backward")
def _(output_gradient, argmax, height, width, channel_sum):
    batch, channels = output_gradient.shape[:2]
    gradient = _empty_map(output_gradient, batch, channels, height, width)
    return gradient, _channels(output_gradient) if channel_sum else _nothing(output_gradient)


@torch.library.register_fake("pyconvopt::avg_pool2d_backward")
def _(output_gradient, height, width, *windows):
    return _empty_map(output_gradient, *output_gradient.shape[:2], height, width)


@torch.library.register_fake("pyconvopt::sgd_step_")
def _(
    parameters, gradients, buffers, lr, momentum, dampening, weight_decay, nesterov, maximize, first
):
    return None


@torch.library.register_fake("pyconvopt::adam_step_")
def _(
    parameters,
    gradients,
    exp_avgs,
    exp_avg_sqs,
    steps,
    lr,
    beta1,
    beta2,
    eps,
    weight_decay,
    decoupled,
    maximize,
):
    return None
