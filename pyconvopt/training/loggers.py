"""Callbacks that write the numbers of a run: a CSV file, TensorBoard's event files.

Files are opened at the first number. A run that is taken up again cuts its CSV file back to what
stood there at the checkpoint and goes on behind it, so each epoch stands there once.
"""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import IO, Any, ClassVar

from typing_extensions import override

from pyconvopt.extras import require
from pyconvopt.training.callbacks import Callback, Logs


class CSVLogger(Callback):
    """One line an epoch in a CSV file, written at once so that a killed run keeps its lines.

    Args: filename (its folder is made), separator (','), append (False).

    The columns are those of the first epoch, and with validation data theirs too; a number that an
    epoch does not have is written as NA. Lines that cannot be written, as on a full disk, are a
    warning: the run goes on, and they are tried again with the next.
    """

    first_process_only: ClassVar[bool] = True

    def __init__(self, filename: str | Path, separator: str = ",", append: bool = False) -> None:
        self.filename = Path(filename)
        self.separator = separator
        self.append = append
        self.file: IO[bytes] | None = None

    @override
    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.columns: list[str] | None = None
        self.resume_at: int | None = None
        self.waiting = b""
        self.filename.parent.mkdir(parents=True, exist_ok=True)

    def open(self) -> IO[bytes]:
        """The file, opened where the next line belongs."""
        if self.resume_at is None:
            return open(self.filename, "ab" if self.append else "wb", buffering=0)
        file = open(self.filename, "ab", buffering=0)  # noqa: SIM115
        file.truncate(min(self.resume_at, os.path.getsize(self.filename)))
        return file

    @override
    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        logs = logs or {}
        if self.columns is None:
            self.columns = columns(logs, bool(self.params.get("validation")))
        if self.file is None:
            self.file = self.open()
        text = StringIO(newline="")
        writer = csv.writer(text, delimiter=self.separator)
        if not self.waiting and os.fstat(self.file.fileno()).st_size == 0:
            writer.writerow(["epoch", *self.columns])
        writer.writerow([epoch, *(logs.get(name, "NA") for name in self.columns)])
        self.waiting += text.getvalue().encode()
        self.write(self.file)

    def write(self, file: IO[bytes]) -> None:
        """Write the lines that wait; all of them or none."""
        size = os.fstat(file.fileno()).st_size
        try:
            rest = memoryview(self.waiting)
            while rest:
                rest = rest[file.write(rest) :]
            self.waiting = b""
        except OSError as error:
            file.seek(file.truncate(size))
            lines = self.waiting.count(b"\n")
            warnings.warn(
                f"{lines} lines of {self.filename} could not be written: {error.strerror}; the run "
                "goes on, and tries again after the next epoch",
                stacklevel=2,
            )

    @override
    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.file is not None:
            if self.waiting:
                self.write(self.file)
            self.file.close()
            self.file = None

    @override
    def state_dict(self) -> dict[str, Any]:
        size = self.resume_at if self.file is None else os.fstat(self.file.fileno()).st_size
        return {"columns": self.columns, "size": size}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.columns, self.resume_at = state["columns"], state["size"]


def columns(logs: Mapping[str, Any], validation: bool) -> list[str]:
    """The names of the numbers, those of a validation that is still to come included."""
    names = list(logs)
    if validation and not any(name.startswith("val_") for name in names):
        names += [f"val_{name}" for name in names if name != "learning_rate"]
    return names


class TensorBoard(Callback):
    """Writes the numbers of each epoch for TensorBoard: `tensorboard --logdir logs`.

    Args: log_dir ('logs'; numbers go to its folders 'train', 'validation' and 'batches'),
    histogram_freq (0: none; else every so many epochs a histogram of each weight), update_freq
    ('epoch'; 'batch' or a number of batches: also the running means of the epoch so far).

    At the epochs of histogram_freq, if wanted: write_grads (False: histograms of the gradients of the
    last batch too, as 'gradients/<parameter>'), write_images (False: the first convolution's filters
    as an image), confusion (None; (x, y): the confusion matrix over these samples as an image, with
    class_names).

    Keras' other arguments are taken; what they ask for beyond this (the graph, a profile,
    embeddings) is not written, and a warning says so.

    Tags are Keras': 'epoch_loss', 'epoch_accuracy', 'batch_loss' … An epoch that is run again
    after a crash replaces what the crashed run wrote.

    Errors: when the callback is made, ImportError naming the extra if tensorboard is missing, or for
    images matplotlib, and ValueError for options that histogram_freq=0 leaves without an epoch.
    """

    first_process_only: ClassVar[bool] = True
    remembers = ("batches",)

    def __init__(
        self,
        log_dir: str | Path = "logs",
        histogram_freq: int = 0,
        update_freq: str | int = "epoch",
        write_graph: bool = False,
        write_images: bool = False,
        write_steps_per_second: bool = False,
        profile_batch: int | Sequence[int] = 0,
        embeddings_freq: int = 0,
        embeddings_metadata: Any = None,
        *,
        write_grads: bool = False,
        confusion: tuple[Any, Any] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        unwritten = {
            "write_graph": write_graph,
            "write_steps_per_second": write_steps_per_second,
            "profile_batch": profile_batch,
            "embeddings_freq": embeddings_freq,
            "embeddings_metadata": embeddings_metadata,
        }
        asked = [name for name, value in unwritten.items() if value]
        if asked:
            warnings.warn(
                "TensorBoard writes numbers, histograms and pictures alone: "
                f"{', '.join(asked)} has no effect",
                stacklevel=2,
            )
        purpose = "the TensorBoard callback"
        require("tensorboard", purpose, extra="tensorboard")
        self.SummaryWriter = require("torch.utils.tensorboard", purpose).SummaryWriter
        self.log_dir = Path(log_dir)
        self.histogram_freq = histogram_freq
        self.write_grads, self.write_images = write_grads, write_images
        self.confusion, self.class_names = confusion, class_names
        if not histogram_freq and (write_grads or write_images or confusion is not None):
            raise ValueError(
                "write_grads, write_images and confusion are written every histogram_freq epochs: "
                "set it to 1 or more"
            )
        if confusion is not None and len(confusion) != 2:
            raise ValueError(f"confusion must be (x, y), got {len(confusion)} parts")
        if write_images or confusion is not None:
            require("matplotlib", "TensorBoard's images")
        self.every = 1 if update_freq == "batch" else update_freq
        self.writers: dict[str, Any] = {}
        if self.every != "epoch":
            if not isinstance(self.every, int) or self.every < 1:
                raise ValueError(
                    f"update_freq must be 'epoch', 'batch' or a number >= 1, got {update_freq!r}"
                )
            self.on_train_batch_end = self.after_batch  # type: ignore[method-assign]

    @override
    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.batches = 0

    def write(self, place: str, numbers: Iterable[tuple[str, float]], step: int) -> None:
        """Numbers into a folder's event file."""
        if place not in self.writers:
            self.writers[place] = self.SummaryWriter(str(self.log_dir / place), purge_step=step)
        for tag, value in numbers:
            self.writers[place].add_scalar(tag, value, step)

    def after_batch(self, batch: int, logs: Logs | None = None) -> None:
        """The running means, every so many batches."""
        self.batches += 1
        if self.batches % int(self.every) == 0:
            numbers = [(f"batch_{name}", value) for name, value in (logs or {}).items()]
            self.write("batches", numbers, self.batches)

    @override
    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        logs = logs or {}
        held_out = [name for name in logs if name.startswith("val_")]
        self.write("train", [(f"epoch_{n}", logs[n]) for n in logs if n not in held_out], epoch)
        if held_out:
            self.write("validation", [(f"epoch_{n[4:]}", logs[n]) for n in held_out], epoch)
        if self.histogram_freq and epoch % self.histogram_freq == 0:
            self.write_model(self.writers["train"], epoch)
        for writer in self.writers.values():
            writer.flush()

    def write_model(self, writer: Any, epoch: int) -> None:
        """Histograms and images of the model as it is now."""
        for name, weight in self.model.named_parameters():
            writer.add_histogram(name, weight.detach(), epoch)
            if self.write_grads and weight.grad is not None:
                writer.add_histogram(f"gradients/{name}", weight.grad, epoch)
        # Here, since the pictures need a package that this one is part of.
        from pyconvopt import pictures
        from pyconvopt.pictures.answers import probabilities

        if self.write_images:
            writer.add_figure("filters", pictures.filters(self.model), epoch)
        if self.confusion is not None:
            x, y = self.confusion
            said = probabilities(self.model, x)
            figure = pictures.confusion_matrix(y, said, self.class_names)
            writer.add_figure("confusion_matrix", figure, epoch)

    @override
    def on_train_end(self, logs: Logs | None = None) -> None:
        for writer in self.writers.values():
            writer.close()
        self.writers = {}
