"""Maps that are made again for backward, to the bit, instead of being kept.

Behind ``y = activation(batch_norm(z))`` a convolution needs y for its weight's gradient, and the
normalisation needs z for its own: keeping z alone halves what a network of such pairs keeps, for one
more pass over the map (Bulò, Porzi and Kontschieder 2018, arXiv:1712.02616). A convolution or pool
that normalises what it reads does without that pass, and without the map in forward too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from .. import settings
from .handover import Sums, offered
from .norm import BatchNormFunction, NormOptions, reference_forward

_again = torch.ops.pyconvopt.batch_norm_again.default
_statistics = torch.ops.pyconvopt.batch_norm_statistics.default
WORTHWHILE = 1 << 20
"""Elements of a map."""


class Recipe(NamedTuple):
    """What makes a map again: the options of its normalisation, and the tensors that this kept."""

    options: NormOptions
    tensors: tuple[Any, ...]
    """Input, weight, bias, mean and invstd."""

    @property
    def input(self) -> Tensor:
        """Of the normalisation: of the map's shape."""
        return self.tensors[0]

    @property
    def shape(self) -> torch.Size:
        """Of the map."""
        return self.input.shape

    @property
    def norm(self) -> tuple[Any, ...]:
        """As the operators take it that make the map, or normalise what they read."""
        return *self.tensors, self.options.activation


class UnstoredMap(NamedTuple):
    """A map that what reads it makes: `conv2d` and its kin, and `max_pool2d` take it as their input."""

    values: Tensor
    """None of them: a tensor of the map's shape, to which its gradient flows."""
    recipe: Recipe
    """What makes the values."""

    def stored(self) -> Tensor:
        """The map itself."""
        return StoredFunction.apply(*self)

    def dim(self) -> int:
        """Of the map."""
        return self.values.dim()

    @property
    def shape(self) -> torch.Size:
        """Of the map."""
        return self.values.shape


def stored(x: Tensor | UnstoredMap) -> Tensor:
    """The map, for what takes no other."""
    return x.stored() if isinstance(x, UnstoredMap) else x


class UnstoredNormFunction(BatchNormFunction):
    """`BatchNormFunction` in training without its output: a map of the right shape and no values."""

    @staticmethod
    def forward(ctx, x, weight, bias, residual, mean, invstd, options, _):  # type: ignore[override]  # noqa: D102
        ctx.options, ctx.gives_to, ctx.adds, ctx.sums = options, offered(x), False, Sums()
        ctx.save_for_backward(x, weight, bias, None, None, mean, invstd)
        return mean.new_empty(1).expand(x.shape)


def unstored(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    options: NormOptions,
    moments: Tensor | None,
) -> UnstoredMap:
    """The batch norm of x in training: a map without values, and what makes them while it is read."""
    with torch.no_grad():
        mean, invstd = _statistics(
            x, running_mean, running_var, options.momentum, options.eps, moments
        )
    y = UnstoredNormFunction.apply(x, weight, bias, None, mean, invstd, options, None)
    return UnstoredMap(y, Recipe(options, (x, weight, bias, mean, invstd)))


class StoredFunction(Function):
    """The values of an unstored map."""

    @staticmethod
    def forward(ctx, y, recipe):  # noqa: D102
        ctx.options = recipe.options
        ctx.save_for_backward(*recipe.tensors)
        return made_again(recipe)

    @staticmethod
    def backward(ctx, g):  # noqa: D102
        return g, None


def recipe(y: Tensor) -> Recipe | None:
    """How to make `y` again, or None if it must be kept."""
    node: Any = y.grad_fn
    if type(node) not in (_NORM, _STORED) or y.numel() < WORTHWHILE or not settings.recompute():
        return None
    options: NormOptions = node.options
    # A version above 0: something wrote over it after it was made.
    adds = type(node) is _NORM and node.adds
    if y.is_cuda or options.pool or options.dropout or adds or y._version:
        return None
    try:
        saved = node.saved_tensors
    except RuntimeError:  # its backward has been run, and let them go
        return None
    if type(node) is _STORED:
        return Recipe(options, saved)
    z, weight, bias, _, _, mean, invstd = saved
    return Recipe(options, (z, weight, bias, mean, invstd))


_NORM, _STORED = (each._backward_cls for each in (BatchNormFunction, StoredFunction))  # type: ignore[attr-defined]


def made_again(recipe: Recipe) -> Tensor:
    """The map; where gradients are recorded in torch's differentiable operations."""
    if torch.is_grad_enabled():
        z, weight, bias, mean, invstd = recipe.tensors
        return reference_forward((z, weight, bias), mean, invstd, recipe.options)
    return _again(*recipe.norm)
