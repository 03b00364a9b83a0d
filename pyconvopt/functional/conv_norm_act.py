"""Convolution, batch norm, residual, activation, pooling and dropout as one step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..autograd.handover import offer
from .conv import conv2d, conv2d_max_pool, conv2d_moments
from .elementwise import dropout as apply_dropout
from .gate import Activation, Size, activate, needs_gradient, pair, suits
from .norm import batch_norm
from .pool import max_pool2d

WORTHWHILE = 4
"""Outputs for each weight from which on folding a norm into the weights pays."""


def conv_norm_act(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: Activation = None,
    residual: Tensor | None = None,
    pool: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """``dropout(pool(activation(batch_norm(conv2d(input)) + residual)))``, joined where it can be.

    In training the convolution takes the batch's statistics on its way, what follows is one pass over
    its result, and in backward the gradient between the two need not be stored where the convolution
    is 1×1 or depthwise. In evaluation without gradients the norm is folded into the weights, if the map
    is large enough for that to pay.

    Args:
        input, weight, bias, stride, padding, dilation, groups: as `conv2d`.
        running_mean, running_var, training, momentum, eps: as `batch_norm`.
        norm_weight, norm_bias: (K), batch norm's, or None.
        activation, residual, pool, dropout: as `batch_norm`; the residual has the shape of the
            convolution's result.

    Returns:
        The convolution's result, normalised; halved in height and width by `pool`.

    Raises:
        RuntimeError, ValueError: as `conv2d` and `batch_norm`.

    >>> import torch, pyconvopt as pco
    >>> x, w = torch.randn(2, 3, 8, 8), torch.randn(16, 3, 3, 3)
    >>> y = pco.functional.conv_norm_act(x, w, padding=1, training=True, activation="relu")
    >>> y.shape, bool(y.min() == 0)
    (torch.Size([2, 16, 8, 8]), True)
    """
    geometry = stride, padding, dilation, groups
    vectors = running_mean, running_var, norm_weight, norm_bias
    moments = None
    if training and not torch.compiler.is_compiling():
        y, moments = conv2d_moments(input, weight, bias, *geometry)
        offer(y)
    elif not training and folds(input, weight, stride, (bias, *vectors, residual)):
        folded = fold([weight, bias, *vectors], eps)
        return folded_convolution(
            input, residual, *folded, *geometry, activation=activation, pool=pool, dropout=dropout
        )
    else:
        y = conv2d(input, weight, bias, *geometry)
    return batch_norm(
        y, *vectors, training, momentum, eps, activation=activation, residual=residual, pool=pool,
        dropout=dropout, moments=moments,
    )  # fmt: skip


@torch.no_grad()
def fold(tensors: list[Tensor | None], eps: float) -> tuple[Tensor, Tensor]:
    """(weight, bias) of a convolution that normalises its own result, of (weight, bias, mean, var, γ, β).

    >>> import torch
    >>> ones = torch.ones(2)
    >>> w, b = fold([torch.ones(2, 1, 1, 1), None, ones, 4 * ones, 6 * ones, ones], eps=0.0)
    >>> w.flatten().tolist(), b.tolist()
    ([3.0, 3.0], [-2.0, -2.0])
    """
    weight, bias, mean, var, gamma, beta = tensors
    assert weight is not None and mean is not None and var is not None
    scale = torch.rsqrt(var + eps)
    if gamma is not None:
        scale = scale * gamma
    shift = (-mean if bias is None else bias - mean) * scale
    return weight * scale.view(-1, 1, 1, 1), shift if beta is None else shift + beta


def folds(input: Tensor, weight: Tensor, stride: Size, others: tuple[Tensor | None, ...]) -> bool:
    """Whether folding is right (no gradient, plain float32, statistics) and pays for the size of the map.

    `others`: bias, mean, variance, and whatever else could want a gradient.
    """
    _, mean, variance, *_ = others
    strides = pair(stride)
    if mean is None or variance is None or strides is None or 0 in strides:
        return False
    if (
        not suits(input)
        or input.dtype is not torch.float32
        or input.dim() != 4
        or weight.dim() != 4
    ):
        return False
    outputs_a_filter = input.shape[0] * input.shape[2] * input.shape[3] // math.prod(strides)
    return outputs_a_filter >= WORTHWHILE * weight[0].numel() and not needs_gradient(
        input, weight, *others
    )


def folded_convolution(
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    *geometry: Any,
    activation: Activation = None,
    pool: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """What follows the norm, behind a convolution with folded weights."""
    if residual is None and activation in (None, "relu"):
        convolve = conv2d_max_pool if pool else conv2d
        y = convolve(input, weight, bias, *geometry, activation=activation)
    else:
        y = conv2d(input, weight, bias, *geometry)
        y = y if residual is None else y + residual
        y = activate(y, activation, in_place=True)
        y = max_pool2d(y, 2) if pool else y
    return apply_dropout(y, dropout) if dropout else y
