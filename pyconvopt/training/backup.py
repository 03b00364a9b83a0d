"""Backups of a running training, and taking it up again as if nothing had happened.

A run that is killed at any moment, while it writes too, and started again by the same program, ends
with the bits of one that was not: see `state` for what is kept and `checkpoint` for how. With
`ArrayLoader` (arrays, tensors) the place in the data is jumped to. With a `DataLoader` or a generator
the batches of the broken pass are read again and thrown away; see `data.stream` for what that asks of
them, which persistent workers do not give.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import override

from pyconvopt.extras import require
from pyconvopt.training import state
from pyconvopt.training.callbacks import Callback, Logs
from pyconvopt.training.checkpoint import CheckpointFolder
from pyconvopt.training.monitors import checked_frequency
from pyconvopt.training.processes import Processes


class Terminated(SystemExit):
    """The run was asked to end (SIGTERM) and has saved; exit status 143, a shell's for it."""

    def __init__(self, message: str) -> None:
        super().__init__(128 + signal.SIGTERM)
        self.message = message

    def __str__(self) -> str:
        return self.message


class BackupAndRestore(Callback):
    """Saves the whole run now and then; `fit` goes on from there if it is started again.

    Args: backup_dir (a folder for this run alone), save_freq ('epoch'; a number of batches; or a
    `datetime.timedelta`), double_checkpoint (False; True: at least two are kept),
    delete_checkpoint (True: a run that ends removes its backups; a program that is killed between
    that and saving its model then starts anew), keep (2 checkpoints).

    Of several processes that train one model the first writes and reads; all go on from what it read.

    SIGTERM is waited for while `fit` runs in the main thread: the run saves after the batch (or the
    validation) at hand and raises `Terminated`, exit status 143. A checkpoint that cannot be
    written, as on a full disk, is a warning: the run goes on, and the older ones are kept.

    Errors: ValueError for checkpoints of another model, optimiser or data, or all of them damaged;
    ImportError naming the extra if safetensors is missing.
    """

    runs_last: ClassVar[bool] = True

    def __init__(
        self,
        backup_dir: str | Path,
        save_freq: str | int | timedelta = "epoch",
        double_checkpoint: bool = False,
        delete_checkpoint: bool = True,
        keep: int = 2,
    ) -> None:
        require("safetensors.torch", "writing a checkpoint")
        self.save_freq = checked_frequency(save_freq)
        self.folder = CheckpointFolder(backup_dir, max(keep, 2 if double_checkpoint else 1))
        if self.folder.folder.exists() and not self.folder.folder.is_dir():
            raise ValueError(f"backup_dir {backup_dir} is a file; wanted a folder")
        self.delete_checkpoint = delete_checkpoint

    @override
    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.batches = 0
        self.saved_at = time.monotonic()
        self.saved_step: int | None = None
        self.asked = self.terminate = False  # this process; all of them together
        self.within_epoch: dict[str, Any] | None = None
        self.processes: Processes = self.trainer.processes
        if getattr(self.trainer.stream.loader, "persistent_workers", False):
            warnings.warn(
                "the workers of a DataLoader with persistent_workers=True keep random states no "
                "checkpoint sees: a run taken up again draws other random transforms; leave it out",
                stacklevel=5,
            )
        if getattr(self.trainer.held_out, "is_read_once", False):
            warnings.warn(
                "a checkpoint does not keep the place in validation data that a generator gives: a run "
                "taken up again validates on what it gives then; give a function that makes one",
                stacklevel=5,
            )
        found = self.processes.from_first(self.newest)
        if found is not None:
            epoch, batch = self.trainer.position = state.restore(self.trainer, found)
            self.within_epoch = found if batch else None
            where = f"epoch {epoch + 1}, batch {batch + 1}" if batch else f"epoch {epoch + 1}"
            if self.params["verbose"] and epoch < self.params["epochs"]:
                print(f"going on from {self.folder.folder}: {where}", flush=True)
        self.listens = threading.current_thread() is threading.main_thread()
        if self.listens:
            self.previous = signal.signal(signal.SIGTERM, self.on_signal)

    def newest(self) -> dict[str, Any] | None:
        """The state to go on from; what a killed write left is removed."""
        self.folder.clear_parts()
        return self.folder.latest()

    def on_signal(self, number: int, frame: Any) -> None:
        """Only a note: the run saves where its state is whole."""
        self.asked = True

    @override
    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        # The others began this epoch a second time: what they changed (a learning rate) goes back.
        if self.within_epoch is not None:
            state.restore(self.trainer, self.within_epoch, again=True)
            self.within_epoch = None

    @override
    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self.batches += 1
        if self.trainer.between_updates:
            return
        self.terminate = self.processes.any(self.asked)
        if self.terminate or self.processes.any(self.is_due()):
            self.save(self.trainer.position[0], batch + 1)
            self.leave_if_asked()

    def is_due(self) -> bool:
        """Whether it is time for a backup between batches."""
        if isinstance(self.save_freq, int):
            return self.batches >= self.save_freq
        if isinstance(self.save_freq, timedelta):
            return time.monotonic() - self.saved_at >= self.save_freq.total_seconds()
        return False

    @override
    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        ends = epoch + 1 >= self.params["epochs"] or self.model.stop_training
        self.terminate = self.processes.any(self.asked)
        due = self.processes.any(self.is_due())
        if self.save_freq == "epoch" or ends or self.terminate or due:
            self.save(epoch + 1, 0)
        self.leave_if_asked()

    def save(self, epoch: int, batch: int) -> None:
        """Write a checkpoint of the run as it is now."""
        self.batches, self.saved_at = 0, time.monotonic()
        captured = state.capture(self.trainer, epoch, batch)
        try:
            if self.processes.is_first:
                self.folder.save(self.trainer.step_number, captured)
            self.saved_step = self.trainer.step_number
        except OSError as error:
            warnings.warn(
                f"no checkpoint of step {self.trainer.step_number} could be written: {error}; the "
                "run goes on, older ones are kept",
                stacklevel=2,
            )

    def leave_if_asked(self) -> None:
        """End the run after a SIGTERM."""
        if not self.terminate:
            return
        step = self.trainer.step_number
        if self.saved_step != step:
            raise OSError(f"ended by SIGTERM, and no checkpoint of step {step} could be written")
        message = f"ended by SIGTERM after step {step}, saved in {self.folder.folder}"
        if self.processes.is_first:
            print(f"{message}; start it again to go on", file=sys.stderr, flush=True)
        raise Terminated(message)

    @override
    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.listens:
            signal.signal(signal.SIGTERM, self.previous or signal.SIG_DFL)
        complete = self.trainer.position[0] >= self.params["epochs"]
        ended = complete or self.model.stop_training
        if self.delete_checkpoint and ended and self.processes.is_first:
            self.folder.clear()
