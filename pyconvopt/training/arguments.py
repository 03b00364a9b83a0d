"""What the trainer's arguments stand for, settled before the loop starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer

from pyconvopt.data.loader import ArrayLoader
from pyconvopt.data.stream import Stream
from pyconvopt.training.backup import BackupAndRestore
from pyconvopt.training.callbacks import Callback
from pyconvopt.training.progress import ProgressBar


def whole(name: str, value: Any) -> int:
    """A whole number >= 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number >= 1, got {value!r}")
    return value


def clipping(norm: float | None, value: float | None) -> Callable[[Optimizer], None] | None:
    """What clips the gradients before an update; None if nothing does."""
    for name, bound in (("clip_norm", norm), ("clip_value", value)):
        if bound is not None and not bound > 0:
            raise ValueError(f"{name} must be more than 0, got {bound}")
    if norm is None and value is None:
        return None

    def clip(optimizer: Optimizer) -> None:
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        if value is not None:
            clip_grad_value_(parameters, value)
        if norm is not None:
            clip_grad_norm_(parameters, norm)

    return clip


def update_options(
    learning_rate: float | None, accumulate: int, norm: float | None, value: float | None
) -> dict[str, Any]:
    """Those of the options that were given, for a saved model."""
    given = {"learning_rate": learning_rate, "clip_norm": norm, "clip_value": value}
    options: dict[str, Any] = {name: each for name, each in given.items() if each is not None}
    return options | ({"accumulate": accumulate} if accumulate != 1 else {})


def weighted(data: Any, sample_weight: Any) -> Any:
    """The data with the weights of their samples.

    Errors: ValueError for weights beside anything but a pair of arrays.
    """
    if sample_weight is None:
        return data
    if not isinstance(data, tuple) or len(data) != 2:
        raise ValueError(
            "sample_weight goes with arrays (x, y); a DataLoader or a generator gives batches "
            "(x, y, weights)"
        )
    return (*data, sample_weight)


def validation_epochs(frequency: int | Sequence[int]) -> Callable[[int], bool]:
    """Whether an epoch (the first is 0) is validated after: every so many, or those of a list.

    >>> [epoch for epoch in range(6) if validation_epochs(2)(epoch)]
    [1, 3, 5]
    """
    if isinstance(frequency, int):
        each = whole("validation_freq", frequency)
        return lambda epoch: (epoch + 1) % each == 0
    chosen = frozenset(whole("validation_freq", number) for number in frequency)
    return lambda epoch: epoch + 1 in chosen


def backup(
    checkpoint: str | Path | BackupAndRestore | None, every: str | int | timedelta
) -> list[Callback]:
    """The callback that `checkpoint` and `every` ask for."""
    if isinstance(checkpoint, BackupAndRestore):
        if every != "epoch":
            raise ValueError("every goes with a folder; BackupAndRestore has its own save_freq")
        return [checkpoint]
    if checkpoint is None:
        if every != "epoch":
            raise ValueError("every says how often to write a checkpoint: give its folder too")
        return []
    return [BackupAndRestore(checkpoint, every, delete_checkpoint=False)]


def bar_for(verbose: int | str) -> list[Callback]:
    """The progress display that `verbose` asks for."""
    if verbose not in ("auto", 0, 1, 2):
        raise ValueError(f"verbose must be 'auto', 0, 1 or 2, got {verbose!r}")
    return [] if verbose == 0 else [ProgressBar(False if verbose == 2 else None)]


def run_parameters(
    stream: Stream, epochs: int, verbose: int | str, validation: bool
) -> dict[str, Any]:
    """Keras' `params`: what a callback may want to know of the run."""
    loader: Any = stream.loader
    samples = loader.samples if isinstance(loader, ArrayLoader) else None
    dataset: Any = getattr(loader, "dataset", None)
    if hasattr(dataset, "__len__"):
        samples = len(dataset)
    if stream.steps_per_epoch is not None:
        size = loader.batch_size
        samples = None if size is None else stream.steps_per_epoch * size
    known = stream.steps_per_epoch is not None or samples is not None
    return {
        "epochs": epochs,
        "steps": len(stream) if known else None,
        "samples": samples,
        "batch_size": loader.batch_size,
        "verbose": verbose,
        "validation": validation,
    }


def average_of(optimizer: Any, callbacks: Sequence[Callback]) -> list[Callback]:
    """The callback that evaluates a Schedule-Free optimiser at its average, if nobody gave one."""
    if not (hasattr(optimizer, "train") and hasattr(optimizer, "eval")):
        return []
    from pyconvopt.averaging import ScheduleFree

    return [] if any(isinstance(each, ScheduleFree) for each in callbacks) else [ScheduleFree()]
