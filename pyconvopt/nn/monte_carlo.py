"""Monte-Carlo dropout: masks stay on in evaluation, and many passes tell how sure a model is.

Source: Gal and Ghahramani 2016, "Dropout as a Bayesian Approximation".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from ..draws import draw_seed, drawing

TOGETHER = 256  # images that run together, whatever the size of the batches they come in


def is_dropout(module: nn.Module) -> bool:
    """Whether a module is dropout of torch's, of this package's or of `pyconvopt.layers`."""
    return isinstance(module, _DropoutNd) or getattr(module, "is_dropout", False)


@contextmanager
def monte_carlo_dropout(model: nn.Module) -> Iterator[nn.Module]:
    """Within it the model is in evaluation mode, but for its dropout, which goes on drawing masks.

    Afterwards every module is in the mode it had.

    Errors: ValueError for a model without dropout, which would give the same each time, and for one
    accelerated with frozen=True, whose dropout is left out for good.

    >>> import torch, pyconvopt as pco
    >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(4), pco.nn.Dropout(0.5))
    >>> with pco.nn.monte_carlo_dropout(model):
    ...     print(model[0].training, model[1].training)
    False True
    """
    from ..accelerate.classes import Frozen

    dropouts = [module for module in model.modules() if is_dropout(module)]
    if not dropouts:
        raise ValueError("the model has no dropout: every pass would give the same")
    if any(isinstance(module, Frozen) for module in dropouts):
        raise ValueError(
            "the model was accelerated with frozen=True, which leaves its dropout out: accelerate it "
            "without frozen=True to draw masks"
        )
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    for module in dropouts:
        module.train()
    try:
        yield model
    finally:
        for module, mode in modes:
            module.training = mode


def groups(batches: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The images of batches in groups of that size; the last may be smaller.

    >>> [len(group) for group in groups([torch.zeros(3), torch.zeros(4)], 2)]
    [2, 2, 2, 1]
    """
    waiting: Tensor | None = None
    for images in batches:
        waiting = images if waiting is None else torch.cat([waiting, images])
        whole = len(waiting) - len(waiting) % size
        yield from waiting[:whole].split(size) if whole else ()
        waiting = waiting[whole:]
    if waiting is not None and len(waiting):
        yield waiting


def monte_carlo_predict(
    model: nn.Module, x: Any, samples: int = 20, batch_size: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """(mean, spread) of `samples` passes with dropout: arrays of the outputs' shape.

    The spread is the standard deviation over the passes (n - 1 in the denominator), in the
    outputs' units: large where the model is unsure. A sample's masks depend on torch's generator and
    the sample's place in `x`.

    Args: model, x (arrays or tensors as `training.Trainer` takes them, or a loader), samples
    (2 or more), batch_size (256: how many images are fetched at a time. The images run in groups
    of their own, so after `torch.manual_seed` the result does not depend on it).

    Errors: ValueError for less than two samples, or a model without dropout, or a frozen one.

    >>> import torch, pyconvopt as pco
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 8), pco.nn.Dropout(0.5))
    >>> mean, spread = pco.nn.monte_carlo_predict(model, torch.ones(5, 2), samples=10)
    >>> mean.shape, spread.shape
    ((5, 8), (5, 8))
    """
    from ..data import as_batches
    from ..training.inference import as_array, build_for, place, samples_of

    if not isinstance(samples, int) or samples < 2:
        raise ValueError(f"samples must be a whole number >= 2, got {samples!r}")
    loader = as_batches(x, batch_size)
    build_for(model, loader)
    device, dtype = place(model)
    moments, seed = [], draw_seed()
    with monte_carlo_dropout(model), torch.no_grad():
        for number, images in enumerate(groups(map(samples_of, loader), TOGETHER)):
            images = images.to(device, dtype)
            passes = []
            for each in range(samples):
                with drawing(seed, each, number):
                    passes.append(model(images))
            moments.append(torch.std_mean(torch.stack(passes), dim=0))
    spread, mean = (as_array(torch.cat(each)) for each in zip(*moments, strict=True))
    return mean, spread
