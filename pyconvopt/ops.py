"""The operators ``torch.ops.pyconvopt.*``: their shapes for tracing, and what multiplications they stand for.

They take float32 tensors on the CPU in dense channels_last memory, and CUDA tensors in either format;
`pyconvopt.functional` brings any other tensor into that form or hands it to torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .memory import memory_format


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


@torch.library.register_fake("pyconvopt::conv2d_moments")
def _(input, weight, bias, sh, sw, ph, pw, dh, dw, groups):
    height, width = _out_size(input, weight, (sh, sw, ph, pw, dh, dw))
    pieces = torch.library.get_ctx().new_dynamic_size()  # the kernel's own affair
    filters = weight.shape[0]
    shape = (2, pieces, filters) if input.is_cuda else (pieces, 2 * filters + 1)
    moments = torch.empty(shape, dtype=torch.float32, device=input.device)
    return _empty_map(input, input.shape[0], filters, height, width), moments


@torch.library.register_fake("pyconvopt::conv2d_normalized")
def _(input, norm_weight, norm_bias, mean, invstd, activation, weight, bias, *hyper):
    moments = hyper[-1]
    height, width = _out_size(input, weight, hyper)
    filters = weight.shape[0]
    statistics = _nothing(input)
    if moments:
        pieces = torch.library.get_ctx().new_dynamic_size()  # the kernel's own affair
        statistics = input.new_empty(pieces, 2 * filters + 1)
    return _empty_map(input, input.shape[0], filters, height, width), statistics


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


@torch.library.register_fake("pyconvopt::conv2d_normalized_weight_gradient")
def _(input, norm_weight, norm_bias, mean, invstd, activation, output_gradient, weight, *hyper):
    return _empty_like_weight(weight)


@torch.library.register_fake("pyconvopt::conv2d_gradients")
def _(input, *others):
    *_, weight, _, _, _, _, _, _, _ = others
    _, _, mean, *_ = others
    sums = [input.new_empty(0 if mean is None else input.shape[1]) for _ in range(2)]
    return torch.empty_like(input), _empty_like_weight(weight), *sums


@torch.library.register_fake("pyconvopt::conv2d_max_pool_weight_gradient")
def _(input, output_gradient, argmax, weight, sh, sw, ph, pw, dh, dw, groups):
    return _empty_like_weight(weight), weight.new_empty(weight.shape[0])


# --- What ``torch.utils.flop_counter`` counts of them: two a multiplication, as of torch's convolution -


def _counted(*names: str) -> Any:
    operators = [getattr(torch.ops.pyconvopt, name) for name in names]
    return register_flop_formula(operators, get_raw=True)


def _flops(batch: int, size: Sequence[int], weight: Tensor) -> int:
    """Of a pass of the convolution whose output has that size."""
    return 2 * batch * size[0] * size[1] * weight.numel()


@_counted("conv2d", "conv2d_moments", "conv2d_max_pool")
def _(input, weight, bias, *hyper, out_val=None):
    return _flops(len(input), _out_size(input, weight, hyper), weight)


@_counted("conv2d_normalized")
def _(input, norm_weight, norm_bias, mean, invstd, activation, weight, bias, *hyper, out_val=None):
    return _flops(len(input), _out_size(input, weight, hyper), weight)


@_counted("conv2d_data_gradient")
def _(output_gradient, weight, *others, out_val=None):
    return _flops(len(output_gradient), output_gradient.shape[2:], weight)


@_counted("conv2d_max_pool_data_gradient")
def _(output_gradient, argmax, weight, height, width, *hyper, out_val=None):
    return _flops(len(out_val), _out_size(out_val, weight, hyper), weight)


@_counted("conv2d_weight_gradient")
def _(input, output_gradient, weight, *hyper, out_val=None):
    return _flops(len(input), output_gradient.shape[2:], weight)


@_counted("conv2d_max_pool_weight_gradient")
def _(input, output_gradient, argmax, weight, *hyper, out_val=None):
    return _flops(len(input), _out_size(input, weight, hyper), weight)


@_counted("conv2d_normalized_weight_gradient")
def _(input, *others, out_val=None):
    *_, output_gradient, weight, _, _, _, _, _, _, _ = others
    return _flops(len(input), output_gradient.shape[2:], weight)


@_counted("conv2d_gradients")
def _(input, *others, out_val=None):
    *_, weight, _, _, _, _, _, _, _ = others
    return 2 * _flops(len(input), _out_size(input, weight, others[-7:]), weight)


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
    moments=None,
):
    if pool:
        output, argmax = _empty_pooled(input), _empty_pooled(input, torch.uint8)
    else:
        output, argmax = _empty_rows(input), _nothing(input, torch.uint8)
    return output, argmax, _statistics(input), _statistics(input)


@torch.library.register_fake("pyconvopt::batch_norm_statistics")
def _(input, running_mean, running_var, momentum, eps, moments=None):
    return _statistics(input), _statistics(input)


@torch.library.register_fake("pyconvopt::batch_norm_again")
def _(input, weight, bias, mean, invstd, activation):
    return _empty_rows(input)


@torch.library.register_fake("pyconvopt::batch_norm_input_gradient")
def _(output_gradient, input, *others):
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


@torch.library.register_fake("pyconvopt::max_pool2d")
def _(input, norm_weight, norm_bias, mean, invstd, activation, height, width, *windows):
    shape = (*input.shape[:2], height, width)
    return _empty_map(input, *shape), _empty_map(input, *shape, dtype=torch.uint8)


@torch.library.register_fake("pyconvopt::max_pool2d_backward")
def _(output_gradient, argmax, height, width, *windows):
    return _empty_map(output_gradient, *output_gradient.shape[:2], height, width)


@torch.library.register_fake("pyconvopt::avg_pool2d_backward")
def _(output_gradient, height, width, *windows):
    return _empty_map(output_gradient, *output_gradient.shape[:2], height, width)


@torch.library.register_fake("pyconvopt::cross_entropy")
def _(input, target, weight, reduction, ignore_index, label_smoothing, gradient_needed):
    loss = input.new_empty(() if reduction else input.shape[:1])
    return loss, torch.empty_like(input) if gradient_needed else _nothing(input)


@torch.library.register_fake("pyconvopt::sgd_step_")
def _(
    parameters,
    gradients,
    buffers,
    lr,
    momentum,
    dampening,
    weight_decay,
    nesterov,
    maximize,
    first,
    scale=1.0,
    after=None,
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
    scale=1.0,
    after=None,
):
    return None


@torch.library.register_fake("pyconvopt::sum_of_squares")
def _(tensors):
    return torch.empty((), dtype=torch.float64)


# --- Between two training steps ---------------------------------------------------------------------


@torch.library.register_fake("pyconvopt::gather_samples")
def _(samples, labels, rows):
    labels = (
        samples.new_empty(0) if labels is None else labels.new_empty(len(rows), *labels.shape[1:])
    )
    return samples.new_empty(len(rows), *samples.shape[1:], dtype=torch.float32), labels


@torch.library.register_fake("pyconvopt::right_answers")
def _(outputs, labels):
    return torch.library.get_ctx().new_dynamic_size()
