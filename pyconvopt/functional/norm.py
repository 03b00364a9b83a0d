"""Batch normalisation, alone and with what follows it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import cuda, draws, explanation
from ..autograd.norm import NAMES, RELU, BatchNormFunction, NormOptions
from ..memory import memory_format
from ..plans import TORCH
from .elementwise import dropout as apply_dropout
from .gate import Activation, activate, suits, takes
from .noise import dropped
from .order import in_order
from .pool import max_pool2d


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: Activation = None,
    residual: Tensor | None = None,
    pool: bool = False,
    dropout: float = 0.0,
    moments: Tensor | None = None,
) -> Tensor:
    """``y = (x − E[x]) / √(Var[x] + eps) · weight + bias`` for each channel, and what follows it.

    Args:
        input: (N, C) or (N, C, H, W); channels_last maps run on this library's kernels, on a GPU
            also contiguous ones.
        running_mean, running_var: (C); in training updated as ``running += momentum · (batch −
            running)`` with the unbiased variance, otherwise used instead of the batch's.
        weight, bias: (C) or None.
        training: whether the batch's own mean and (biased) variance are used.
        activation: None, ``"relu"``, ``"relu6"`` or ``"hardswish"`` (in the same pass; the last two where
            nothing follows), or a callable applied afterwards.
        residual: added before the activation, of the input's shape.
        pool: 2×2 max-pooling with stride 2 after the activation.
        dropout: share of elements dropped at the end; 0 for none.
        moments: the input's statistics, as `conv2d_moments` returned them with it; None: they are
            taken here.

    Returns:
        The input's shape, halved in height and width by `pool`.

    Raises:
        ValueError: in training with one value a channel.

    Source: Ioffe and Szegedy 2015 (arXiv:1502.03167).

    >>> import torch, pyconvopt as pco
    >>> pco.functional.batch_norm(torch.tensor([[1.0], [3.0]]), None, None, training=True)
    tensor([[-1.0000],
            [ 1.0000]])
    """
    if training and input.dim() >= 2 and input.numel() == input.shape[1] and input.numel():
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {input.size()}"
        )
    fused = NAMES.index(activation) if activation in NAMES else None
    if pool and input.is_cuda:  # the plug-in pools in a pass of its own
        y = batch_norm(
            input, running_mean, running_var, weight, bias, training, momentum, eps,
            activation=activation, residual=residual, moments=moments,
        )  # fmt: skip
        y = max_pool2d(y, 2)
        return apply_dropout(y, dropout) if dropout else y
    x = None
    if valid(training, momentum, eps):
        x = kernel_input(input, training, running_mean, running_var, weight, bias)
    fusable = fused is not None and not (residual is not None and pool)
    if fused is not None and fused > RELU:
        fusable = residual is None and not pool and not input.is_cuda
    if residual is not None and x is not None:
        fusable = fusable and _alike(residual, input)
    if x is None or not fusable or (pool and (x.dim() != 4 or min(x.shape[2:]) < 2)):
        y = F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        explain("batch_norm", TORCH, "dtype or memory format that no kernel here takes", input, y)
        y = y if residual is None else y + residual
        y = activate(y, activation)
        y = max_pool2d(y, 2) if pool else y
        return apply_dropout(y, dropout) if dropout else y
    if residual is not None:
        order = memory_format(x)
        apart = residual.is_contiguous() and not residual.is_contiguous(memory_format=order)
        residual = in_order(residual, order, torch.contiguous_format if apart else order)
    assert fused is not None
    fused_dropout = dropout if fused == RELU or pool else 0.0
    if fused_dropout and x.is_cuda and cuda.capturing():
        fused_dropout = 0.0  # torch's dropout draws anew at every replay
    draw = draws.draw("dropout") if fused_dropout else None
    if draw is not None and draw.start(x.shape):
        fused_dropout = 0.0  # the kernel counts from 0
    seed = draw.key if draw is not None and fused_dropout else 0
    options = NormOptions(training, momentum, eps, fused, pool, fused_dropout, seed)
    y = BatchNormFunction.apply(
        x, weight, bias, residual, running_mean, running_var, options, moments if training else None
    )
    extras = [name for name in (NAMES[fused], pool and "pool", fused_dropout and "dropout") if name]
    explain("batch_norm", "batch_norm", " + ".join(["one pass", *extras]), x, y)
    if draw is not None:
        return y if fused_dropout else dropped(y, dropout, draw)[0]
    return apply_dropout(y, dropout) if dropout else y


def valid(training: bool, momentum: float, eps: float) -> bool:
    """Whether these are of the types that torch wants; any others, and other eps, are its to refuse."""
    numbers = isinstance(momentum, (int, float)) and isinstance(eps, (int, float))
    return isinstance(training, bool) and numbers and eps > 0


def kernel_input(input: Tensor, training: bool, *vectors: Tensor | None) -> Tensor | None:
    """The input if it is a matrix or a channels_last map that the kernels take with its vectors."""
    running_mean, running_var, *_ = vectors
    if not takes(input) or not input.numel() or (running_mean is None) != (running_var is None):
        return None
    if input.dim() not in (2, 4) or not (training or running_mean is not None):
        return None
    for vector in vectors:
        if vector is not None and not (
            suits(vector)
            and vector.dtype is torch.float32
            and vector.is_cuda == input.is_cuda
            and vector.shape == input.shape[1:2]
            and vector.is_contiguous()
        ):
            return None
    if input.dim() == 2:
        return input.contiguous()
    if input.is_contiguous(memory_format=torch.channels_last):
        return input
    return input if input.is_cuda and input.is_contiguous() else None


def _alike(residual: Tensor, x: Tensor) -> bool:
    return (
        suits(residual)
        and residual.dtype is x.dtype
        and residual.is_cuda == x.is_cuda
        and residual.shape == x.shape
    )


def explain(op: str, kernel: str, reason: str, x: Tensor, y: Tensor) -> None:
    """Rows for both passes of a normalisation, while `explain` listens."""
    if explanation.listening():
        explanation.note(op, "forward", kernel, reason, 5 * x.numel(), [x, x, y])
        explanation.note(op, "backward", kernel, reason, 8 * x.numel(), [x, y, x, y, x])
