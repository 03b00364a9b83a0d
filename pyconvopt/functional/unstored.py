"""A batch norm whose result is not stored: the convolution behind it normalises what it reads."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import settings
from ..autograd.norm import NAMES, NormOptions
from ..autograd.recompute import Recipe, StoredFunction, unstored
from .gate import Activation
from .norm import batch_norm, explain, kernel_input, valid

REASON = "statistics; the convolution behind it makes the rest while it reads, or just before"


class UnstoredMap(NamedTuple):
    """What `unstored_batch_norm` returns; `conv2d` and its kin take it as their input."""

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


def unstored_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    *,
    activation: Activation = None,
    moments: Tensor | None = None,
) -> Tensor | UnstoredMap:
    """`batch_norm` for a convolution alone; a tensor where it is not in training, or torch's to do."""
    vectors = (running_mean, running_var, weight, bias)
    # One value a channel is `batch_norm`'s to refuse.
    fits = training and input.dim() == 4 and input.is_cpu and input.numel() > input.shape[1]
    fits = fits and valid(training, momentum, eps) and activation in NAMES and settings.recompute()
    if not fits or kernel_input(input, training, *vectors) is not input:
        return batch_norm(
            input, running_mean, running_var, weight, bias, training, momentum, eps,
            activation=activation, moments=moments,
        )  # fmt: skip
    options = NormOptions(True, momentum, eps, NAMES.index(activation))  # type: ignore[arg-type]
    explain("batch_norm", "batch_norm", REASON, input, input)
    return UnstoredMap(*unstored(input, weight, bias, running_mean, running_var, options, moments))


def stored(x: Tensor | UnstoredMap) -> Tensor:
    """The map, for what takes no other."""
    return x.stored() if isinstance(x, UnstoredMap) else x
