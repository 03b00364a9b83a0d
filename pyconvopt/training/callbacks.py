"""Callbacks with Keras' names and hooks.

A hook is only called where a callback overrides it, and the numbers of a batch are only computed
when a hook reads them: a loop without batch hooks pays nothing for them.

To stop a run, a callback sets `self.model.stop_training = True`, as in Keras.
"""

from __future__ import annotations

import csv
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn
from typing_extensions import override

Logs = Mapping[str, float]


class Callback:
    """Base class: override the hooks you need; `model`, `trainer` and `params` are set.

    `params`: 'epochs', 'steps' (batches an epoch), 'samples', 'batch_size', 'verbose'.
    """

    model: Any
    trainer: Any
    params: dict[str, Any]

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Before the first epoch."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """After the last epoch, also when the run ends in an error."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Before an epoch, the first is 0."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """After an epoch and its validation, with the epoch's numbers."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a training step."""

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a training step, with the epoch's means so far."""

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Before validation."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """After validation, with the epoch's numbers."""


class LazyLogs(Mapping[str, float]):
    """The running means of an epoch, computed when they are read."""

    def __init__(self, compute: Callable[[], dict[str, float]]) -> None:
        self.compute = compute

    def __getitem__(self, key: str) -> float:
        return self.compute()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.compute())

    def __len__(self) -> int:
        return len(self.compute())


class CallbackList:
    """Calls each hook of those callbacks that override it."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks must be Callback objects, got {callback!r}")
        self.callbacks = list(callbacks)
        self.overriding: dict[str, list[Callable[..., None]]] = {
            name: [
                getattr(callback, name)
                for callback in self.callbacks
                if getattr(type(callback), name) is not hook or name in vars(callback)
            ]
            for name, hook in vars(Callback).items()
            if name.startswith("on_")
        }

    def bind(self, model: nn.Module, trainer: Any, params: dict[str, Any]) -> None:
        """Tell every callback what it hangs on."""
        for callback in self.callbacks:
            callback.model, callback.trainer, callback.params = model, trainer, params

    def hooks(self, name: str) -> list[Callable[..., None]]:
        """The hooks of that name that do something."""
        return self.overriding[name]

    def call(self, name: str, *arguments: Any) -> None:
        """Call every hook of that name."""
        for hook in self.overriding[name]:
            hook(*arguments)


class LambdaCallback(Callback):
    """Hooks given as functions: LambdaCallback(on_epoch_end=lambda epoch, logs: ...).

    Errors: TypeError for a name that is no hook.
    """

    def __init__(self, **hooks: Callable[..., None]) -> None:
        known = [name for name in vars(Callback) if name.startswith("on_")]
        for name, hook in hooks.items():
            if name not in known:
                raise TypeError(f"LambdaCallback has no hook {name!r}; hooks: {', '.join(known)}")
            setattr(self, name, hook)


class TerminateOnNaN(Callback):
    """Stops the run as soon as the loss is NaN or infinite."""

    @override
    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            print(f"batch {batch}: the loss is {loss}; training stops")
            self.model.stop_training = True


class EarlyStopping(Callback):
    """Stops when `monitor` has not improved by more than `min_delta` for `patience` epochs.

    Args: monitor ('val_loss'), min_delta (0), patience (0), verbose (0), mode ('auto': 'max' for
    accuracies, 'min' for the rest), baseline (None: must be beaten to count), restore_best_weights
    (False: the weights of the best epoch come back at the end), start_from_epoch (0).

    Errors: ValueError if the monitored number is not in the logs.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"mode must be 'auto', 'min' or 'max', got {mode!r}")
        self.monitor = monitor
        self.min_delta = abs(min_delta)
        self.patience = patience
        self.verbose = verbose
        upward = mode == "max" or (mode == "auto" and monitor.endswith(("acc", "accuracy")))
        self.sign = 1.0 if upward else -1.0
        self.baseline = baseline
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = start_from_epoch

    @override
    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.waited = 0
        self.best: float | None = None
        self.best_epoch = 0
        self.best_weights: dict[str, torch.Tensor] | None = None
        self.stopped_epoch = 0

    def improves(self, value: float, on: float | None) -> bool:
        """Whether a value is better than another by more than `min_delta`."""
        return on is None or self.sign * (value - on) > self.min_delta

    @override
    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        logs = logs or {}
        if self.monitor not in logs:
            raise ValueError(
                f"EarlyStopping watches {self.monitor!r}, but the logs hold {', '.join(logs)}: "
                "give validation data, or monitor one of these"
            )
        if epoch < self.start_from_epoch:
            return
        value = logs[self.monitor]
        self.waited += 1
        if self.improves(value, self.best):
            self.best, self.best_epoch = value, epoch
            if self.restore_best_weights:
                state = self.model.state_dict()
                self.best_weights = {name: value.clone() for name, value in state.items()}
            if self.baseline is None or self.improves(value, self.baseline):
                self.waited = 0
        if self.waited >= self.patience and self.waited > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    @override
    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.stopped_epoch and self.verbose:
            print(f"stopped early after epoch {self.stopped_epoch + 1}")
        if self.best_weights is not None:
            self.model.load_state_dict(self.best_weights)


class CSVLogger(Callback):
    """One line an epoch in a CSV file, written at once so that a killed run keeps its lines.

    Args: filename, separator (','), append (False).
    """

    def __init__(self, filename: str | Path, separator: str = ",", append: bool = False) -> None:
        self.filename = Path(filename)
        self.separator = separator
        self.append = append
        self.file: IO[str] | None = None

    @override
    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.header_is_there = (
            self.append and self.filename.exists() and self.filename.stat().st_size > 0
        )
        self.file = open(self.filename, "a" if self.append else "w", newline="")  # noqa: SIM115

    @override
    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.file is None:
            return
        writer = csv.writer(self.file, delimiter=self.separator)
        if not self.header_is_there:
            writer.writerow(["epoch", *(logs or {})])
            self.header_is_there = True
        writer.writerow([epoch, *(logs or {}).values()])
        self.file.flush()

    @override
    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


class LearningRateScheduler(Callback):
    """Sets the learning rate before each epoch: schedule(epoch, rate) -> rate, or (epoch).

    >>> halve = LearningRateScheduler(lambda epoch, rate: rate / 2)
    """

    def __init__(self, schedule: Callable[..., float], verbose: int = 0) -> None:
        self.schedule = schedule
        self.takes_rate = len(inspect.signature(schedule).parameters) > 1
        self.verbose = verbose

    @override
    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        groups = self.trainer.optimizer.param_groups
        before = float(groups[0]["lr"])
        rate = self.schedule(epoch, before) if self.takes_rate else self.schedule(epoch)
        if not isinstance(rate, (int, float)):
            raise TypeError(f"the schedule must return a number, got {rate!r}")
        for group in groups:
            group["lr"] = float(rate)
        if self.verbose:
            print(f"epoch {epoch + 1}: learning rate {rate:g}")
