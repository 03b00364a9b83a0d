"""A batch norm whose result is not stored: the convolution or pool behind it normalises what it reads."""

from __future__ import annotations

from torch import Tensor

from .. import settings
from ..autograd.norm import NAMES, NormOptions
from ..autograd.recompute import UnstoredMap, unstored
from .gate import Activation
from .norm import batch_norm, explain, kernel_input, valid

REASON = "statistics; what reads the map makes the rest meanwhile, or just before"


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
    """`batch_norm` for one convolution or pool; a tensor where it is not in training, or torch's to do."""
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
    return unstored(input, weight, bias, running_mean, running_var, options, moments)
