"""A run that depends on everything a checkpoint holds, made to be killed: a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch._dynamo  # an optimiser imports it at its first step: here once for all processes
from safetensors.torch import save_file
from torch.utils.data import BatchSampler, DataLoader, Subset, TensorDataset, WeightedRandomSampler

from pyconvopt import files, layers, models
from pyconvopt.training import (
    BackupAndRestore,
    Callback,
    EarlyStopping,
    LearningRateScheduler,
    Trainer,
    checkpoint,
)

EPOCHS, BATCHES = 3, 4


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(30, 6, 6, 1, generator=generator)
    return x, (x.mean((1, 2, 3)) > 0).long()


def trainer(classes: int = 2, **options) -> Trainer:
    torch.manual_seed(1)
    model = models.Sequential(
        [
            layers.Conv2D(4, 3, activation="relu", input_shape=(6, 6, 1)),
            layers.BatchNormalization(),
            layers.Dropout(0.3),
            layers.Conv2D(4, 3),
            layers.Flatten(),
            layers.Dense(classes, activation="softmax"),
        ]
    )
    options = {"schedule": lambda step: 0.01 / (1 + step), "metrics": ["accuracy"]} | options
    return Trainer(model, "adam", "sparse_categorical_crossentropy", **options)


class Noise(Callback):
    """Changes a weight by every kind of random number, and counts how often."""

    remembers = ("draws",)

    def on_train_begin(self, logs=None):
        self.draws = 0

    def on_train_batch_end(self, batch, logs=None):
        self.draws += 1
        amount = random.random() + np.random.random() + self.draws * logs["loss"]
        with torch.no_grad():
            self.model.layers[0].bias.add_(1e-3 * amount)


class KillAt(Callback):
    def __init__(self, epoch: int, batch: int, number: int = signal.SIGKILL) -> None:
        self.place, self.number = (epoch, batch), number

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.place:
            os.kill(os.getpid(), self.number)

    def on_epoch_end(self, epoch, logs=None):
        if (epoch, -1) == self.place:
            os.kill(os.getpid(), self.number)


def dies_in_write(stage: str, which: int) -> None:
    """Let the process die in its `which`th write of a checkpoint."""
    count = [0]

    def counted(function: Callable, before: bool) -> Callable:
        def called(*arguments):
            count[0] += 1
            if count[0] == which and before:
                kill()
            result = function(*arguments)
            if count[0] == which:
                kill()
            return result

        return called

    if stage == "in the middle":

        def half(path: Path, content: bytes) -> None:
            count[0] += 1
            if count[0] < which:
                files.write_whole(path, content)
                return
            path.parent.mkdir(exist_ok=True)
            with open(f"{path}.{os.getpid()}.part", "wb") as file:
                file.write(content[: len(content) // 2])
                file.flush()
                kill()

        checkpoint.write_whole = half
    else:
        files.os.replace = counted(os.replace, before=stage == "before the rename")


def run(
    folder: str,
    result: str,
    data: str = "arrays",
    every: object = 1,
    death: tuple | None = None,
    rate: str = "schedule",
    accumulate: int = 1,
    auroc: bool = False,
) -> None:
    """Train, die as told, or write weights, moments and history to `result`."""
    torch.set_num_threads(1)
    random.seed(0)
    np.random.seed(0)
    callbacks: list[Callback] = [
        Noise(),
        EarlyStopping("val_loss", patience=9, restore_best_weights=True),
    ]
    options = {}
    if rate == "callback":
        options["schedule"] = None
        callbacks.append(LearningRateScheduler(lambda epoch, before: before * 0.7))
    if auroc:  # it keeps every batch of the epoch
        from torchmetrics import AUROC

        options["metrics"] = ["accuracy", AUROC(task="multiclass", num_classes=2)]
    chosen = trainer(accumulate=accumulate, **options)
    if death and death[0] == "at":
        callbacks.append(KillAt(*death[1:]))
    elif death:
        dies_in_write(*death)
    x, y = images()

    def batches():
        for start in range(0, 30, 8):
            yield x[start : start + 8] + torch.rand(()), y[start : start + 8]

    def endless():
        while True:
            yield from batches()

    def weighted():
        own = torch.Generator().manual_seed(3)
        return WeightedRandomSampler(torch.arange(1.0, 31.0), 30, generator=own)

    given = {
        "arrays": lambda: (x, y),
        "steps": lambda: (x, y),
        "loader": lambda: DataLoader(TensorDataset(x, y), 8, shuffle=True),
        "own order": lambda: DataLoader(
            TensorDataset(x, y), 8, shuffle=True, generator=torch.Generator().manual_seed(3)
        ),
        "sampler's order": lambda: DataLoader(TensorDataset(x, y), 8, sampler=weighted()),
        "batch sampler's order": lambda: DataLoader(
            TensorDataset(x, y), batch_sampler=BatchSampler(weighted(), 8, drop_last=False)
        ),
        "dataset": lambda: Subset(TensorDataset(x, y), range(30)),
        "function": lambda: batches,
        "generator": endless,
    }[data]()
    history = chosen.fit(
        given,
        epochs=EPOCHS,
        batch_size=8,
        validation=(x, y),
        steps_per_epoch=BATCHES
        if data == "generator"
        else 3
        if data in ("function", "steps")
        else None,
        verbose=0,
        seed=4 if data == "dataset" else None,
        callbacks=callbacks,
        checkpoint=BackupAndRestore(
            folder,
            timedelta(microseconds=1) if every == "time" else every,
            delete_checkpoint=False,
        ),
    )
    moments = {
        f"{index}.{name}": value
        for index, state in chosen.optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
    numbers = [torch.tensor(values) for values in history.history.values()]
    tensors = {
        **chosen.model.state_dict(),
        **moments,
        "history": torch.cat(numbers),
        "draw": torch.rand(4),
        "steps": torch.tensor(chosen.step_number),
    }
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, result)


CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.training.resumable"])


def process(*arguments, **keywords) -> int:
    """The exit code of `run` in a process of its own."""
    child = CONTEXT.Process(target=run, args=arguments, kwargs=keywords)
    child.start()
    child.join(60)
    assert child.exitcode is not None
    return child.exitcode
