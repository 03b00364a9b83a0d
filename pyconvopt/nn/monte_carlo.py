"""Monte-Carlo dropout: masks stay on in evaluation, and many passes tell how sure a model is.

Source: Gal and Ghahramani 2016, "Dropout as a Bayesian Approximation".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from ..draws import draw_seed, drawing

BLOCK = 256
"""Samples of one key: a pass draws again what its block's samples before its own draw."""


def is_dropout(module: nn.Module) -> bool:
    """Whether a module is dropout of torch's, of this package's or of `pyconvopt.layers`."""
    return isinstance(module, _DropoutNd) or getattr(module, "is_dropout", False)


@contextmanager
def monte_carlo_dropout(model: nn.Module) -> Iterator[nn.Module]:
    """Within it the model is in evaluation mode, but for its dropout, which goes on drawing masks.

    Afterwards every module is in the mode it had.

    Errors: ValueError for a model without dropout, which would give the same each time.

    >>> import torch, pyconvopt as pco
    >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(4), pco.nn.Dropout(0.5))
    >>> with pco.nn.monte_carlo_dropout(model):
    ...     print(model[0].training, model[1].training)
    False True
    """
    dropouts = [module for module in model.modules() if is_dropout(module)]
    if not dropouts:
        raise ValueError("the model has no dropout: every pass would give the same")
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    for module in dropouts:
        module.train()
    try:
        yield model
    finally:
        for module, mode in modes:
            module.training = mode


def monte_carlo_predict(
    model: nn.Module, x: Any, samples: int = 20, batch_size: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """(mean, spread) of `samples` passes with dropout: arrays of the outputs' shape.

    The spread is the standard deviation over the passes (n - 1 in the denominator), in the
    outputs' units: large where the model is unsure. A sample's masks depend on torch's generator and
    the sample's place in `x`, on no size of batches (but those of layers that are not this library's).

    Args: model, x (arrays or tensors as `training.Trainer` takes them, or a loader), samples
    (2 or more), batch_size (256).

    Errors: ValueError for less than two samples, or a model without dropout.

    >>> import torch, pyconvopt as pco
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 8), pco.nn.Dropout(0.5))
    >>> mean, spread = pco.nn.monte_carlo_predict(model, torch.ones(5, 2), samples=10)
    >>> mean.shape, spread.shape
    ((5, 8), (5, 8))
    """
    from ..data import as_batches
    from ..training.inference import build_for, place

    if not isinstance(samples, int) or samples < 2:
        raise ValueError(f"samples must be a whole number >= 2, got {samples!r}")
    loader = as_batches(x, batch_size)
    build_for(model, loader)
    device, dtype = place(model)
    moments, seed, first = [], draw_seed(), 0
    with monte_carlo_dropout(model), torch.no_grad():
        for batch in loader:
            images = (batch[0] if isinstance(batch, (tuple, list)) else batch).to(device, dtype)
            for piece in images.split(pieces(first, len(images))):
                passes = torch.stack(
                    [one_pass(model, piece, seed, i, first) for i in range(samples)]
                )
                moments.append(torch.std_mean(passes, dim=0))
                first += len(piece)
    spread, mean = (torch.cat(each).cpu().numpy() for each in zip(*moments, strict=True))
    return mean, spread


def pieces(first: int, count: int) -> list[int]:
    """The sizes of `count` samples' parts, cut where a block begins.

    >>> pieces(250, 20), pieces(0, 256)
    ([6, 14], [256])
    """
    borders = [first, *range((first // BLOCK + 1) * BLOCK, first + count, BLOCK), first + count]
    return [end - begin for begin, end in pairwise(borders)]


def one_pass(model: nn.Module, images: Tensor, seed: int, number: int, first: int) -> Tensor:
    """The outputs of images of one block, with the masks of that pass."""
    block, within = divmod(first, BLOCK)
    with drawing(seed, number, block, first_sample=within, samples=len(images)):
        return model(images)
