"""A model asked, not trained: evaluation mode, where it lies, its outputs for arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyconvopt.data.checks import whole
from pyconvopt.data.loader import ArrayLoader, BatchSource, Loader, as_batches
from pyconvopt.training.callbacks import Callback, CallbackList


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
    return loader.x[:1] if isinstance(loader, ArrayLoader) else samples_of(next(iter(loader)))


def samples_of(batch: Any) -> Tensor:
    """The samples of a batch, which may be that of labels and weights too."""
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def predict(
    model: nn.Module,
    x: Any,
    batch_size: int = 256,
    steps: int | None = None,
    callbacks: Sequence[Callback] | Callback = (),
) -> np.ndarray:
    """The model's outputs, in evaluation mode, as one NumPy array.

    `x`: arrays, tensors or whatever `as_batches` takes, labels or none; a generator too may give
    samples alone. `steps` (None: all): the most batches. `callbacks`: their predict hooks.

    Errors: ValueError if there is no batch.
    """
    steps = None if steps is None else whole("steps", steps)
    loader = as_batches(x, batch_size)
    if isinstance(loader, BatchSource):
        loader = BatchSource(loader.source, labels=False)
    build_for(model, loader)
    device, dtype = place(model)
    hooks = CallbackList(callbacks)
    hooks.bind(model)
    hooks.call("on_predict_begin", {})
    outputs: list[Tensor] = []
    with evaluating(model):
        for number, batch in enumerate(islice(loader, steps)):
            hooks.call("on_predict_batch_begin", number, {})
            outputs.append(model(samples_of(batch).to(device, dtype)))
            hooks.call("on_predict_batch_end", number, {"outputs": outputs[-1]})
    hooks.call("on_predict_end", {})
    if not outputs:
        raise ValueError("there is no batch to predict on; a generator can be read only once")
    return as_array(torch.cat(outputs))


def as_array(outputs: Tensor) -> np.ndarray:
    """Outputs for NumPy, which has no bfloat16: these become float32."""
    outputs = outputs.float() if outputs.dtype == torch.bfloat16 else outputs
    return outputs.cpu().numpy()
