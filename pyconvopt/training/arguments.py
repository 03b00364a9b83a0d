"""What the trainer's arguments stand for, settled before the loop starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from pyconvopt.data.checks import whole as whole
from pyconvopt.data.loader import ArrayLoader
from pyconvopt.data.stream import Stream
from pyconvopt.draws import draw_seed
from pyconvopt.training.backup import BackupAndRestore
from pyconvopt.training.callbacks import Callback
from pyconvopt.training.clipping import Clipping
from pyconvopt.training.progress import ProgressBar


def given_options(clipping: Clipping, **options: tuple[Any, Any]) -> dict[str, Any]:
    """Those of the options that were given, for a saved model; of each its value and its default."""
    given = {name: value for name, (value, default) in options.items() if value != default}
    return given | clipping.settings()


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


def noise_seed(seed: int | None, made: Any) -> int:
    """The seed of dropout's kin: that given, else that just drawn for a loader's order, or one drawn."""
    if seed is None:
        seed = getattr(made, "seed", None)
    return draw_seed() if seed is None else whole("seed", seed, None)


def validation_epochs(frequency: int | Sequence[int]) -> Callable[[int], bool]:
    """Whether an epoch (the first is 0) is validated after: every so many, or those of a list.

    >>> [epoch for epoch in range(6) if validation_epochs(2)(epoch)]
    [1, 3, 5]
    """
    if not isinstance(frequency, Iterable):
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
