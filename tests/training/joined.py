"""Runs whose result must not depend on the number of processes; a process of such a run of several."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch._dynamo  # an optimiser imports it at its first step: here once for all processes
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyconvopt as pco
from pyconvopt import layers, models
from pyconvopt.data import ArrayLoader, augment
from pyconvopt.training import Trainer
from tests.training.resumable import CONTEXT, KillAt, images

SAMPLES, BATCH = 30, 7  # parts of 3 and 4; the last batch, of two, is one image for each


def keras(*inner: layers.Layer, **options: Any) -> Trainer:
    model = models.Sequential(
        [
            layers.Conv2D(4, 3, activation="relu", input_shape=(6, 6, 1)),
            *inner,
            layers.Flatten(),
            layers.Dense(2, activation="softmax"),
        ]
    )
    options = {"optimizer": sgd, "metrics": ["accuracy", "balanced_accuracy"]} | options
    return Trainer(model, loss="sparse_categorical_crossentropy", **options)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.1, momentum=0.9)


def normalized(**options: Any) -> Trainer:
    parts = [layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D()]
    return keras(*parts, **options)


def arrays(**options: Any) -> dict[str, Any]:
    return {"data": images(), "batch_size": BATCH, **options}


def torch_model() -> Trainer:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
    )
    return Trainer(model, sgd, "cross_entropy", ["accuracy"])


def loader() -> DataLoader:
    x, y = images()
    return DataLoader(TensorDataset(x.permute(0, 3, 1, 2), y), BATCH, shuffle=True)


def one_by_one() -> Any:
    """Batches of two, and of one image: a part of nothing for one of the processes."""
    x, y = images()
    for start in range(0, 9, 3):
        yield x[start : start + 2], y[start : start + 2]
        yield x[start + 2 : start + 3], y[start + 2 : start + 3]


def augmented() -> dict[str, Any]:
    transforms = [augment.RandomHorizontalFlip(), augment.RandomTranslation(), augment.MixUp()]
    return {"data": ArrayLoader(*images(), BATCH, shuffle=True, augment=transforms)}


def weighing() -> dict[str, Any]:
    weights = torch.linspace(0.1, 2.0, SAMPLES)
    return arrays(sample_weight=weights, class_weight={1: 3.0})


def noisy(**options: Any) -> Trainer:
    """All layers that draw, on maps and behind them; a joined dropout among them."""
    parts = [
        layers.GaussianNoise(0.1),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Dropout(0.3),
        layers.SpatialDropout2D(0.2),
        layers.GaussianDropout(0.2),
        layers.Flatten(),
        layers.AlphaDropout(0.2),
    ]
    return keras(*parts, **options)


def noisy_torch_model() -> Trainer:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), pco.nn.DropPath(0.2), pco.nn.Dropout2d(0.2), nn.ReLU(), nn.Flatten(),
        pco.nn.ScheduledDropout(0.3, steps=5), pco.nn.Dropout(0.5), nn.Linear(64, 2),
    )  # fmt: skip
    return Trainer(model, sgd, "cross_entropy", ["accuracy"])


def counted_elsewhere() -> Trainer:
    import torchmetrics

    return keras(metrics=[torchmetrics.F1Score("multiclass", num_classes=2, average="macro")])


# What is trained, and what `fit` is given.
RUNS: dict[str, tuple[Callable[[], Trainer], Callable[[], dict[str, Any]]]] = {
    "arrays": (keras, arrays),
    "batch norm": (normalized, arrays),
    "torch model": (torch_model, lambda: {"data": loader()}),
    "dropout": (noisy, arrays),
    "dropout, seeded": (noisy, lambda: arrays(seed=3)),
    "dropout, accumulated": (partial(noisy, accumulate=2), arrays),
    "dropout, sam": (partial(noisy, optimizer={"name": "sam", "config": {"lr": 0.05}}), arrays),
    "dropout, empty parts": (partial(keras, layers.Dropout(0.3)), lambda: {"data": one_by_one}),
    "dropout, torch model": (noisy_torch_model, lambda: {"data": loader()}),
    "empty parts": (keras, lambda: {"data": one_by_one}),
    "augmented": (normalized, augmented),
    "weights": (keras, weighing),
    "accumulated": (partial(keras, accumulate=2), arrays),
    "clipped": (partial(keras, clip_norm=0.01), arrays),
    "penalty": (partial(keras, regularizers={"*.weight": "l2"}), arrays),
    "sam": (partial(keras, optimizer={"name": "sam", "config": {"lr": 0.05}}), arrays),
    "averaged": (partial(normalized, callbacks=[pco.averaging.EMA(0.5)]), arrays),
    "unseeded epochs": (keras, lambda: arrays(steps_per_epoch=3)),
    "torchmetrics": (counted_elsewhere, arrays),
}


def result(name: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """The weights and all numbers of a run."""
    torch.manual_seed(seed)
    make, data = RUNS[name]
    trainer = make()
    x, y = images()
    held_out = (x.permute(0, 3, 1, 2), y) if "torch model" in name else (x, y)
    history = trainer.fit(validation=held_out, epochs=2, verbose=0, **data())
    numbers = {key: torch.tensor(values) for key, values in history.history.items()}
    seen = {"samples": torch.tensor(trainer.samples_seen), "draw": torch.rand(3)}
    weights = {key: each.clone() for key, each in trainer.model.state_dict().items()}
    return {**weights, **numbers, **seen}


def one_process(rank: int, count: int, folder: str, names: list[str]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count
    )
    for name in names:  # seeds differ: the first process' counts
        save_file(result(name, seed=rank), f"{folder}/{name}-{rank}.safetensors")
    torch.distributed.destroy_process_group()


def together(count: int, target: Callable[..., None], *arguments: Any) -> list[int | None]:
    """Run a function in several processes; their exit codes."""
    children = [
        CONTEXT.Process(target=target, args=(rank, count, *arguments)) for rank in range(count)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    return [child.exitcode for child in children]


def interrupted(folder: str) -> None:
    """A run with noise and an average, one of whose processes dies in its first start."""
    rank, first = int(os.environ["RANK"]), os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    torch.manual_seed(rank)
    parts = [layers.BatchNormalization(), layers.Dropout(0.3)]
    trainer = keras(*parts, callbacks=[pco.averaging.EMA(0.5)])
    killed = [KillAt(1, 2)] if rank == 1 and first and folder.endswith("killed") else []
    trainer.fit(
        **arrays(epochs=3, callbacks=killed, validation=images(), verbose=0),
        checkpoint=f"{folder}/checkpoint",
        every=1,
    )
    weights = {key: each.clone() for key, each in trainer.model.state_dict().items()}
    save_file(weights | {"draw": torch.rand(3)}, f"{folder}/{rank}.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for place in sys.argv[1:]:
        interrupted(place)
