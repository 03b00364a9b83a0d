"""A model asked, not trained: evaluation mode, where it lies, its outputs for arrays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyconvopt.data.loader import ArrayLoader, Loader, as_batches


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards each module is in the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def place(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """The device and float type of a model's weights."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.float32


def build_for(model: Any, loader: Loader) -> None:
    """Build a model that still waits for its input shape."""
    if getattr(model, "built", True):
        return
    if getattr(loader, "is_read_once", False):
        raise ValueError(
            "the model's input shape is not known, and a generator's first batch would be lost in "
            "finding it: build the model first, or give a function that makes the generator"
        )
    model.build(tuple(first_samples(loader).shape))


def first_samples(loader: Loader) -> Tensor:
    """Some images to learn a shape from; a loader that is read once loses them."""
    return loader.x[:1] if isinstance(loader, ArrayLoader) else next(iter(loader))[0]


def predict(model: nn.Module, x: Any, batch_size: int = 256) -> np.ndarray:
    """The model's outputs for arrays or tensors, in evaluation mode, as one NumPy array."""
    loader = as_batches(x, batch_size)
    build_for(model, loader)
    device, dtype = place(model)
    with evaluating(model):
        outputs = [
            model((batch[0] if isinstance(batch, (tuple, list)) else batch).to(device, dtype))
            for batch in loader
        ]
    return torch.cat(outputs).cpu().numpy()
