"""Batch-norm statistics that fit the weights: computed anew from training batches.

Moving statistics follow the weights that are trained. Other weights (an average) give the layers
other activations, so their statistics are those of some training batches with them in place.

Source: Wu and Johnson 2021, "Rethinking 'batch' in batch norm", arXiv:2105.07576, section 3.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pyconvopt.layers.normalization import BatchNormalization
from pyconvopt.layers.views import MeanOfViews, Views
from pyconvopt.nn.sync_batchnorm import SyncBatchNorm, has_others, joined_size

Batch = tuple[tuple[Any, ...], dict[str, Any]]  # what the model was called with


def has_statistics(module: nn.Module) -> bool:
    """Whether it is a batch norm that keeps moving statistics."""
    return isinstance(module, (_BatchNorm, BatchNormalization)) and isinstance(
        getattr(module, "running_mean", None), Tensor
    )


def uses_batch(module: Any) -> bool:
    """Whether a batch norm normalises by its batch: in training, and not frozen."""
    if isinstance(module, BatchNormalization):
        return module.uses_batch_statistics()
    return module.training


def uses_joined_batch(module: Any) -> bool:
    """Whether the batch a batch norm normalises by is that of several processes."""
    if isinstance(module, BatchNormalization):
        return module.uses_joined_batch()
    return isinstance(module, SyncBatchNorm) and has_others(module.process_group)


def samples_in(inputs: tuple[Any, ...], options: dict[str, Any]) -> int:
    """The samples of a batch: the length of the first tensor the model was called with.

    Errors: ValueError where there is none.
    """
    for each in (*inputs, *options.values()):
        if isinstance(each, Tensor) and each.dim():
            return len(each)
    raise ValueError(
        "batch-norm statistics need the number of samples of a batch, but the model was called "
        "without a tensor"
    )


def recompute_statistics(
    model: nn.Module, norms: Iterable[nn.Module], batches: Iterable[Batch]
) -> None:
    """Set the moving statistics of these batch norms to those of the batches together.

    The batch norms normalise by each batch, as in training; all else is in evaluation mode, so
    dropout is off, as it will be when the statistics are used, and no random number is drawn.
    Ghost batch norms take each batch as a whole, `Views` makes none.
    With n samples in all: mean = Σ nᵢ·meanᵢ / n, variance = Σ nᵢ·(varianceᵢ + meanᵢ²) / n − mean².
    """
    found: list[Any] = list(norms)
    modes = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in found]
    ghosts = [(norm, norm.ghost_size) for norm in found if hasattr(norm, "ghost_size")]
    counts = [getattr(norm, "num_batches_tracked", None) for norm in found]
    counts = [count.clone() if isinstance(count, Tensor) else None for count in counts]
    sums = [[torch.zeros_like(norm.running_mean, dtype=torch.float64)] * 2 for norm in found]
    samples = 0
    model.eval()
    try:
        for module, _ in modes:
            if isinstance(module, (Views, MeanOfViews)):
                module.training = True
        for norm in found:
            norm.training = True
            # What a batch leaves behind is its own statistics: Keras' momentum is what stays.
            norm.momentum = 0.0 if isinstance(norm, BatchNormalization) else 1.0
        for ghost, _ in ghosts:
            ghost.ghost_size = sys.maxsize  # parts would leave those of the last one behind
        joined = any(map(uses_joined_batch, found))
        with torch.no_grad():
            for inputs, options in batches:
                model(*inputs, **options)
                size = samples_in(inputs, options)
                size = joined_size(size) if joined else size
                samples += size
                for norm, total in zip(found, sums, strict=True):
                    mean, variance = norm.running_mean.double(), norm.running_var.double()
                    total[0] = total[0] + size * mean
                    total[1] = total[1] + size * (variance + mean.square())
            for norm, (first, second), count in zip(found, sums, counts, strict=True):
                mean = first / samples
                norm.running_mean.copy_(mean)
                norm.running_var.copy_((second / samples - mean.square()).clamp_(min=0))
                if count is not None:
                    norm.num_batches_tracked.copy_(count)
    finally:
        for norm, momentum in zip(found, momenta, strict=True):
            norm.momentum = momentum
        for ghost, ghost_size in ghosts:
            ghost.ghost_size = ghost_size
        for module, mode in modes:
            module.training = mode
