"""Batch normalisation with what follows it (residual, activation, 2×2 max-pool, dropout) as one node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from ..memory import memory_format
from .handover import Sums, Unmade, offered
from .reference import by_reference

_forward = torch.ops.pyconvopt.batch_norm_forward.default
_backward = torch.ops.pyconvopt.batch_norm_backward.default
_input_gradient = torch.ops.pyconvopt.batch_norm_input_gradient.default
_dropout = torch.ops.pyconvopt.dropout.default


# What follows in the same pass: `Activation` of csrc/kernels/kernel.hpp, in that order.
# Each takes a tensor, and whether to write over it.
ACTIVATIONS: dict[str | None, Callable[..., Tensor]] = {
    None: lambda y, inplace=False: y,
    "relu": F.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
}
NAMES = tuple(ACTIVATIONS)
RELU = NAMES.index("relu")


class NormOptions(NamedTuple):
    """What a normalisation does beside normalising."""

    training: bool
    momentum: float
    eps: float
    activation: int = 0  # an index of `NAMES`
    pool: bool = False
    dropout: float = 0.0
    seed: int = 0

    @property
    def alone(self) -> NormOptions:
        """Without what follows the normalisation."""
        return self._replace(activation=0, pool=False, dropout=0.0)

    def hands_over(self, residual: bool, need_residual: bool) -> bool:
        """Whether the input's gradient can be made elsewhere."""
        plain = self.training and not self.pool and not self.dropout
        return plain and residual == need_residual


class BatchNormFunction(Function):
    """``dropout(pool(activation((x − mean) / √(var + eps) · weight + bias + residual)))``."""

    @staticmethod
    def forward(ctx, x, weight, bias, residual, mean, var, options, moments=None):  # noqa: D102
        training, momentum, eps, activation, pool, dropout, seed = options
        y, argmax, saved_mean, saved_invstd = _forward(
            x,
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
            dropout,
            seed,
            0,
            moments,
        )
        ctx.options, ctx.gives_to, ctx.adds = options, offered(x), residual is not None
        ctx.sums = Sums()
        ctx.save_for_backward(
            x,
            weight,
            bias,
            y if activation == RELU and not pool and (dropout or residual is not None) else None,
            argmax if pool else None,
            saved_mean,
            saved_invstd,
        )
        return y

    @staticmethod
    def backward(ctx, g):  # noqa: D102
        x, weight, bias, y, argmax, mean, invstd = ctx.saved_tensors
        need_x, need_weight, need_bias, need_residual = ctx.needs_input_grad[:4]
        options: NormOptions = ctx.options
        known = ctx.sums.take(g)
        if by_reference(g):
            if ctx.adds:
                g, options = _before_sum(g, x, y, options), options.alone
            inputs, needed = (x, weight, bias), ctx.needs_input_grad[:3]
            found = _reference_backward(inputs, needed, g, mean, invstd, options)
            return *found, g if need_residual else None, *[None] * 4
        g = g.contiguous(memory_format=memory_format(x))
        fits = need_x and options.hands_over(ctx.adds, need_residual)
        handover = ctx.gives_to if fits else None
        make_x = need_x and handover is None
        if known is not None and options.training:
            dresidual, (dweight, dbias) = None, known
            vectors = x, weight, bias, mean, invstd, options.activation
            dx = _input_gradient(g, *vectors, dweight, dbias) if make_x else None
        else:
            dx, dresidual, dweight, dbias = _backward(
                g, x, y, argmax, weight, mean, invstd, options.training, options.activation, options.pool,
                options.dropout, make_x, need_residual, bias,
            )  # fmt: skip
        if handover is not None:
            # The residual's gradient is what the activation let through.
            g, activation = (dresidual, 0) if ctx.adds else (g, options.activation)
            dx = handover.leave(
                Unmade(g, x, weight, bias, mean, invstd, activation, dweight, dbias)
            )
        return (
            dx if need_x else None,
            dweight if need_weight else None,
            dbias if need_bias else None,
            dresidual if need_residual else None,
            *[None] * 4,
        )


def _before_sum(g: Tensor, x: Tensor, y: Tensor | None, options: NormOptions) -> Tensor:
    """The gradient of x's norm + residual, from that of y, what activation and dropout make of it."""
    g = g * _multipliers(g, x, options) if options.dropout else g
    return g if y is None else g * ~(y <= 0)


def _multipliers(y: Tensor, x: Tensor, options: NormOptions) -> Tensor:
    """What dropout multiplies y with, behind the norm of x."""
    ones = torch.ones(y.shape, dtype=y.dtype, device=y.device)
    ones = ones.contiguous(memory_format=memory_format(x))
    return _dropout(ones, options.dropout, options.seed, 0)


def _reference_backward(
    inputs: tuple[Tensor | None, ...],
    needed: tuple[bool, ...],
    g: Tensor,
    mean: Tensor,
    invstd: Tensor,
    options: NormOptions,
) -> list[Tensor | None]:
    """The gradients in torch's differentiable operations: the forward again, and its gradient."""
    with torch.enable_grad():
        # Aliases: the gradient to one input must not run on through another that was made from it.
        aliases = [None if t is None else t.view_as(t) for t in inputs]
        y = reference_forward(aliases, mean, invstd, options)
        wanted = [t for t, need in zip(aliases, needed, strict=True) if need and t is not None]
        found = iter(torch.autograd.grad(y, wanted, g, create_graph=True) if wanted else ())
    return [next(found) if need else None for need in needed]


def reference_forward(
    inputs: Sequence[Tensor | None], mean: Tensor, invstd: Tensor, options: NormOptions
) -> Tensor:
    """The forward pass in torch's differentiable operations: of input, weight and bias, no residual."""
    x, weight, bias = inputs
    assert x is not None
    if options.training:
        y = F.batch_norm(x, None, None, weight, bias, True, 0.0, options.eps)
    else:
        y = F.batch_norm(
            x, mean, invstd.pow(-2) - options.eps, weight, bias, False, 0.0, options.eps
        )
    y = ACTIVATIONS[NAMES[options.activation]](y)
    y = F.max_pool2d(y, 2) if options.pool else y
    return y * _multipliers(y, x, options) if options.dropout else y
