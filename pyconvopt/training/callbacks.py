"""Callbacks with Keras' names and hooks; those that watch a number are in `monitors`, those that
write in `loggers`, `BackupAndRestore` in `backup`.

A hook is only called where a callback overrides it, and the numbers of a batch are only computed
when a hook reads them: a loop without batch hooks pays nothing for them.

To stop a run, a callback sets `self.model.stop_training = True`, as in Keras. What a callback must
remember when a run is taken up again, it names in `remembers`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from numbers import Real
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import override

from pyconvopt.training.rates import note_rate, set_rate

Logs = Mapping[str, float]


class Callback:
    """Base class: override the hooks you need; `model`, `trainer` and `params` are set.

    `params`: 'epochs', 'steps' (batches an epoch), 'samples', 'batch_size', 'verbose',
    'validation' (whether there are such data).

    `remembers`: the attributes a checkpoint keeps: numbers, text, tensors, and lists, tuples and
    dicts of them. Where attributes do not say it, override `state_dict` and `load_state_dict`.
    """

    model: Any
    trainer: Any
    params: dict[str, Any]
    remembers: ClassVar[tuple[str, ...]] = ()
    runs_last: ClassVar[bool] = False  # after the hooks of all others
    ends_first: ClassVar[bool] = False  # its on_train_end comes before those of the others
    first_process_only: ClassVar[bool] = (
        False  # of several that train one model: it writes or shows
    )
    only_shows: ClassVar[bool] = False  # a run may be taken up again with it, or without

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the callback, after the hooks of a batch or an epoch."""
        return {name: getattr(self, name) for name in self.remembers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state; called after `on_train_begin`."""
        for name in self.remembers:
            setattr(self, name, state[name])

    def as_validated(self) -> AbstractContextManager[None]:
        """Within, the model has the weights that validation saw, if the callback had changed them."""
        return nullcontext()

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

    def on_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Keras' older name of `on_train_batch_begin`, called where that is not overridden."""

    def on_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Keras' older name of `on_train_batch_end`, called where that is not overridden."""

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Before validation, or `evaluate`."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """After validation, with the epoch's numbers; after `evaluate`, with its own."""

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a batch of validation or `evaluate`."""

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a batch of validation or `evaluate`, with the means so far."""

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Before `predict`."""

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """After `predict`."""

    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a batch of `predict`."""

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a batch of `predict`, with its outputs as logs["outputs"]."""


OLDER_NAMES = {"on_train_batch_begin": "on_batch_begin", "on_train_batch_end": "on_batch_end"}


def overridden(callback: Callback, name: str) -> list[Callable[..., None]]:
    """A callback's hook of that name, or of its older one, if it does something."""
    if getattr(type(callback), name) is not vars(Callback)[name] or name in vars(callback):
        return [getattr(callback, name)]
    return overridden(callback, OLDER_NAMES[name]) if name in OLDER_NAMES else []


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


def listed(given: Any) -> list[Any]:
    """One thing, or several in a list or tuple, as a list.

    >>> listed('accuracy'), listed(('accuracy', 'mse')), listed(None)
    (['accuracy'], ['accuracy', 'mse'], [])
    """
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


class CallbackList:
    """Calls each hook of those callbacks that override it."""

    def __init__(self, callbacks: Sequence[Callback] | Callback) -> None:
        callbacks = listed(callbacks)
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks must be Callback objects, got {callback!r}")
        self.callbacks = sorted(callbacks, key=lambda callback: callback.runs_last)
        self.overriding: dict[str, list[Callable[..., None]]] = {
            name: [hook for callback in self.order(name) for hook in overridden(callback, name)]
            for name in vars(Callback)
            if name.startswith("on_")
        }

    def order(self, name: str) -> list[Callback]:
        """The callbacks in the order in which their hooks of that name are called."""
        if name != "on_train_end":
            return self.callbacks
        return sorted(self.callbacks, key=lambda callback: not callback.ends_first)

    def bind(
        self, model: nn.Module, trainer: Any = None, params: Mapping[str, Any] | None = None
    ) -> None:
        """Tell every callback what it hangs on."""
        for callback in self.callbacks:
            callback.model, callback.trainer, callback.params = model, trainer, dict(params or {})

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


class LearningRateScheduler(Callback):
    """Sets the learning rate before each epoch: schedule(epoch, rate) -> rate, or (epoch).

    The rate is the first parameter group's; others keep their ratio to it. That of an epoch is in
    its logs as 'learning_rate'.

    Errors: TypeError if the schedule returns no number, ValueError for one below 0, NaN, infinity.

    >>> halve = LearningRateScheduler(lambda epoch, rate: rate / 2)
    """

    def __init__(self, schedule: Callable[..., float], verbose: int = 0) -> None:
        self.schedule = schedule
        self.takes_rate = len(inspect.signature(schedule).parameters) > 1
        self.verbose = verbose

    @override
    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        before = self.trainer.rate
        rate = self.schedule(epoch, before) if self.takes_rate else self.schedule(epoch)
        if not isinstance(rate, (Real, Tensor)):
            raise TypeError(f"the schedule must return a number, got {rate!r}")
        rate = float(rate)
        set_rate(self.trainer.optimizer, rate, "LearningRateScheduler's schedule")
        if self.verbose:
            print(f"epoch {epoch + 1}: learning rate {rate:g}")

    @override
    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        note_rate(self.trainer, logs)


class LearningRateMonitor(Callback):
    """Puts the learning rate at the end of each epoch into its logs, as 'learning_rate'.

    For runs whose rate is constant, or set by the optimiser itself: the history, files and pictures
    then hold it. Where a `schedule` or a callback of this library sets the rate it is there anyway.
    Give it before those that write.
    """

    @override
    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        note_rate(self.trainer, logs)
