"""Maps that are made again for backward, to the bit, instead of being kept.

Behind ``y = activation(batch_norm(z))`` a convolution needs y for its weight's gradient, and the
normalisation needs z for its own: keeping z alone halves what a network of such pairs keeps, for one
more pass over the map (Bulò, Porzi and Kontschieder 2018, arXiv:1712.02616).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import settings
from .norm import BatchNormFunction, NormOptions, reference_forward

_again = torch.ops.pyconvopt.batch_norm_again.default
_NODE: Any = BatchNormFunction._backward_cls  # type: ignore[attr-defined]
WORTHWHILE = 1 << 20
"""Elements of a map."""


class Recipe(NamedTuple):
    """What makes a map again: the options of its normalisation, and the tensors that this kept."""

    options: NormOptions
    tensors: tuple[Tensor | None, ...]
    """Input, weight, bias, mean and invstd."""


def recipe(y: Tensor) -> Recipe | None:
    """How to make `y` again, or None if it must be kept."""
    node: Any = y.grad_fn
    if type(node) is not _NODE or y.numel() < WORTHWHILE or not settings.recompute():
        return None
    options: NormOptions = node.options
    # A version above 0: something wrote over it after it was made.
    if y.is_cuda or options.pool or options.dropout or y._version:
        return None
    try:
        z, weight, bias, residual, _, _, mean, invstd = node.saved_tensors
    except RuntimeError:  # its backward has been run, and let them go
        return None
    return None if residual is not None else Recipe(options, (z, weight, bias, mean, invstd))


def made_again(options: NormOptions, tensors: tuple[Tensor | None, ...]) -> Tensor:
    """The map; where gradients are recorded in torch's differentiable operations."""
    z, weight, bias, mean, invstd = tensors
    assert mean is not None and invstd is not None
    if torch.is_grad_enabled():
        return reference_forward((z, weight, bias, None), mean, invstd, options)
    return _again(z, weight, bias, mean, invstd, options.activation)
