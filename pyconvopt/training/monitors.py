"""Callbacks that watch a number and decide: stop, lower the learning rate, save the model.

Their decisions are Keras': the same numbers in, the same epochs stopped and rates set. A value is an
improvement if it beats the best one by more than `min_delta`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import torch
from typing_extensions import override

from pyconvopt.files import write_whole
from pyconvopt.schedules.base import require_rate
from pyconvopt.training.callbacks import Callback, Logs
from pyconvopt.training.rates import note_rate

# Numbers of these names are the better the larger they are; the rest the better the smaller.
UPWARD = ("acc", "accuracy", "auc", "auroc", "precision", "recall", "f1", "f1_score", "iou", "r2")


class Monitor(Callback):
    """What the callbacks of this file share: the number watched, and which of two is better.

    mode: 'min', 'max', or 'auto': 'max' for accuracies and their like, 'min' for the rest.
    """

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        if not isinstance(monitor, str):
            raise ValueError(f"monitor must be the name of a number in the logs, got {monitor!r}")
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"mode must be 'auto', 'min' or 'max', got {mode!r}")
        self.monitor = monitor
        self.min_delta = abs(min_delta)
        upward = mode == "max" or (mode == "auto" and monitor.lower().endswith(UPWARD))
        self.sign = 1.0 if upward else -1.0
        self.best: float | None = None

    def improves(self, value: float, on: float | None) -> bool:
        """Whether a value is better than another by more than `min_delta`."""
        return on is None or self.sign * value - self.min_delta > self.sign * on

    def value(self, logs: Logs | None) -> float | None:
        """The number watched; None in an epoch without validation.

        Errors: ValueError if the run never gives it.
        """
        logs = logs or {}
        if self.monitor in logs:
            return logs[self.monitor]
        held_out = [name for name in logs if name.startswith("val_")]
        if self.monitor.startswith("val_") and self.params.get("validation") and not held_out:
            return None
        raise ValueError(
            f"{type(self).__name__} watches {self.monitor!r}, but the logs hold {', '.join(logs)}: "
            "give validation data, or monitor one of these"
        )

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Within, the model has the weights the number is of: a validation may see an average."""
        with ExitStack() as stack:
            if self.monitor.startswith("val_"):
                for each in self.trainer.hooks.callbacks:
                    stack.enter_context(each.as_validated())
            yield


class EarlyStopping(Monitor):
    """Stops when `monitor` has not improved by more than `min_delta` for `patience` epochs.

    Args: monitor ('val_loss'), min_delta (0), patience (0), verbose (0), mode ('auto': 'max' for
    accuracies, 'min' for the rest), baseline (None: must be beaten to count), restore_best_weights
    (False: the weights of the best epoch come back at the end; if validation sees an average of
    weights, the best average), start_from_epoch (0).

    Errors: ValueError if the monitored number is not in the logs.
    """

    remembers = ("waited", "best", "best_epoch", "best_weights", "stopped_epoch")

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
        super().__init__(monitor, mode, min_delta)
        self.patience = patience
        self.verbose = verbose
        self.baseline = baseline
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = start_from_epoch

    @override
    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.waited = 0
        self.best = None
        self.best_epoch = 0
        self.best_weights: dict[str, torch.Tensor] | None = None
        self.stopped_epoch = 0

    @override
    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        value = self.value(logs)
        if value is None or epoch < self.start_from_epoch:
            return
        self.waited += 1
        if self.improves(value, self.best):
            self.best, self.best_epoch = value, epoch
            if self.restore_best_weights:
                with self.measured():
                    state = self.model.state_dict()
                    self.best_weights = {name: value.clone() for name, value in state.items()}
            if self.baseline is None or self.improves(value, self.baseline):
                self.waited = 0
        elif self.waited >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    @override
    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.stopped_epoch and self.verbose:
            print(f"stopped early after epoch {self.stopped_epoch + 1}")
        if self.best_weights is not None:
            self.model.load_state_dict(self.best_weights)


class ReduceLROnPlateau(Monitor):
    """Multiplies the learning rate by `factor` when `monitor` has not improved for a while.

    Args: monitor ('val_loss'), factor (0.1), patience (10 epochs without improvement), verbose (0),
    mode ('auto'), min_delta (1e-4), cooldown (0 epochs after a reduction before counting again),
    min_lr (0). Each parameter group keeps its own rate. The rate of an epoch is in its logs as
    'learning_rate'.

    Errors: ValueError for a factor that is not below 1, a min_lr below 0, or a number that is not
    in the logs.
    """

    remembers = ("best", "waited", "cooling")

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        if not 0 < factor < 1:
            raise ValueError(f"factor must lie between 0 and 1, got {factor}")
        require_rate(min_lr, "min_lr")
        self.factor = factor
        self.patience = patience
        self.verbose = verbose
        self.cooldown = cooldown
        self.min_lr = min_lr

    @override
    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.best = None
        self.waited = 0
        self.cooling = 0

    @override
    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        note_rate(self.trainer, logs)
        value = self.value(logs)
        if value is None:
            return
        if self.cooling:
            self.cooling -= 1
            self.waited = 0
        if self.improves(value, self.best):
            self.best, self.waited = value, 0
        elif not self.cooling:
            self.waited += 1
            if self.waited >= self.patience and self.reduce(epoch):
                self.cooling, self.waited = self.cooldown, 0

    def reduce(self, epoch: int) -> bool:
        """Lower each group's rate as far as `min_lr` allows; whether one was lowered."""
        reduced = False
        for group in self.trainer.optimizer.param_groups:
            if group["lr"] > self.min_lr:
                group["lr"] = max(group["lr"] * self.factor, self.min_lr)
                reduced = True
        if reduced and self.verbose:
            print(f"epoch {epoch + 1}: learning rate lowered to {self.trainer.rate:g}")
        return reduced


class ModelCheckpoint(Monitor):
    """Saves the model every epoch, every so many batches, or whenever it is the best so far.

    Args: filepath (may hold {epoch}, {batch} and names from the logs with their formats:
    'best-{epoch:02d}-{val_loss:.2f}.safetensors'; epochs count from 1), monitor ('val_loss'),
    verbose (0), save_best_only (False), save_weights_only (False: the whole model, which only a
    `Sequential` can save; of another module the weights), mode ('auto'), save_freq ('epoch', or a
    number of batches), initial_value_threshold (None: the value to beat).

    After a validation that saw an average of weights it is the average that is saved, if `monitor`
    is a number of it. To take a run up again use `BackupAndRestore`: this file holds no optimiser.

    Errors: ValueError for a name in `filepath` or a monitored number that is not in the logs.
    """

    first_process_only: ClassVar[bool] = True
    remembers = ("best", "batches")

    def __init__(
        self,
        filepath: str | Path,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
    ) -> None:
        super().__init__(monitor, mode)
        self.filepath = str(filepath)
        self.verbose = verbose
        self.save_best_only = save_best_only
        self.save_weights_only = save_weights_only
        self.best = initial_value_threshold
        self.batches = 0
        self.save_freq = save_freq
        if checked_frequency(save_freq) != "epoch":
            # Only then is the hook there, and a run that saves by epochs pays nothing for it.
            self.on_train_batch_end = self.after_batch  # type: ignore[method-assign]

    @override
    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch = epoch

    def after_batch(self, batch: int, logs: Logs | None = None) -> None:
        """Save every `save_freq` batches, counted over the epochs."""
        self.batches += 1
        if self.batches % int(self.save_freq) == 0:
            self.save_if_wanted(logs, batch=batch + 1)

    @override
    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.save_freq == "epoch":
            self.save_if_wanted(logs)

    def save_if_wanted(self, logs: Logs | None, **place: int) -> None:
        """Save unless only the best counts and this is not it."""
        if self.save_best_only:
            value = self.value(logs)
            if value is None or not self.improves(value, self.best):
                return
            self.best = value
        try:
            path = Path(self.filepath.format(epoch=self.epoch + 1, **place, **dict(logs or {})))
        except KeyError as error:
            raise ValueError(
                f"filepath {self.filepath!r} names {error.args[0]!r}, but the logs hold "
                f"{', '.join(logs or {})}"
            ) from None
        with self.measured():
            if hasattr(self.model, "save") and not self.save_weights_only:
                self.model.save(path)
            else:
                save_weights(self.model, path)
        if self.verbose:
            print(f"epoch {self.epoch + 1}: saved {path}")


def save_weights(model: torch.nn.Module, path: Path) -> None:
    """Write a model's `state_dict` as safetensors."""
    from pyconvopt.extras import require

    to_bytes = require("safetensors.torch", "saving weights").save
    state = {
        name: value.detach().clone().contiguous() for name, value in model.state_dict().items()
    }
    write_whole(path, to_bytes(state))


def checked_frequency(value: Any) -> str | int | timedelta:
    """'epoch', a number of batches, or (for backups) a span of time."""
    if value == "epoch" or (isinstance(value, timedelta) and value > timedelta()):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise ValueError(
        "how often to save must be 'epoch', a number of batches >= 1, or a datetime.timedelta, "
        f"got {value!r}"
    )
