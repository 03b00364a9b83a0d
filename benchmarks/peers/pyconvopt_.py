"""This project: a model of pyconvopt.layers with its own training step, pyconvopt.nn's modules in
a plain torch program, and a torch program with the one line `pyconvopt.accelerate`,
for inference also with frozen weights.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

import pyconvopt as pco
from benchmarks import images, models
from benchmarks.course import Course, workload
from benchmarks.peers import Workload, torch_, torch_layer
from benchmarks.problems import Problem
from pyconvopt import layers, optimizers
from pyconvopt.data.loader import ArrayLoader
from pyconvopt.losses import SparseCategoricalCrossentropy
from pyconvopt.training import LambdaCallback
from pyconvopt.training.recipes import Recipe
from pyconvopt.training.run import fit_recipe
from pyconvopt.training.run import images as scaled

# torch.nn with this project's modules in place of those it has.
NN = SimpleNamespace(**vars(torch.nn))
vars(NN).update({name: getattr(pco.nn, name) for name in pco.nn.__all__})


def version() -> str:
    return f"pyconvopt {pco.__version__} ({pco.settings.current()['isa']}), {torch_.version()}"


def make_train_step(model: models.Model, batch: int, threads: int, *, manner: str) -> Workload:
    torch.set_num_threads(threads)
    manners = {"layers": layers_step, "nn": nn_step, "accelerate": accelerate_step}
    return manners[manner](model, batch)


def build(model: models.Model, output: str = "linear") -> pco.models.Sequential:
    if model.keras is None:
        raise NotImplementedError(f"{model.name} is not written for pyconvopt.layers yet")
    return pco.models.Sequential([layers.Input(model.input_shape), *model.keras(layers, output)])


def layers_step(model: models.Model, batch: int) -> Workload:
    """What `fit` runs for a batch, running mean of the loss included."""
    module = build(model)
    module.set_weights(models.keras_weights(module.get_weights()))
    sgd = partial(optimizers.SGD, lr=models.LEARNING_RATE, momentum=models.MOMENTUM)
    module.compile(sgd, SparseCategoricalCrossentropy(from_logits=True))
    x, y = (torch.from_numpy(array) for array in models.example_batch(model, batch))
    trainer = module.trainer()
    trainer.prepare(ArrayLoader(x, y, batch))
    module.train()

    def loss() -> float:
        trainer.reset()
        trainer.step(x, y)
        return trainer.logs()["loss"]

    return Workload(
        partial(trainer.step, x, y),
        partial(torch_.mean_loss, loss),
        torch_.parameter_count(module),
        version(),
    )


def nn_step(model: models.Model, batch: int) -> Workload:
    """torch's training step; only the modules and the optimiser are this project's."""
    module = torch_.start(model.torch(NN)).to(memory_format=torch.channels_last).train()
    x, y = torch_.example(model, batch)
    optimizer = optimizers.SGD(
        module.parameters(), lr=models.LEARNING_RATE, momentum=models.MOMENTUM
    )
    step = torch_.training_step(module, optimizer, x, y)
    check = partial(torch_.mean_loss, step)
    return Workload(step, check, torch_.parameter_count(module), version())


def accelerate_step(model: models.Model, batch: int) -> Workload:
    """torch's model, memory format, optimiser and training step; the model is accelerated."""
    module = pco.accelerate(torch_.start(model.torch(torch.nn)).train())
    x, y = torch_.example(model, batch)
    optimizer = torch.optim.SGD(module.parameters(), models.LEARNING_RATE, models.MOMENTUM)
    step = torch_.training_step(module, optimizer, x.contiguous(), y)
    check = partial(torch_.mean_loss, step)
    return Workload(step, check, torch_.parameter_count(module), version())


def make_layer(problem: Problem, threads: int, *, pass_: str, manner: str) -> Workload:
    """pyconvopt.functional, gradients by autograd, in the layout that its kernels take."""
    if manner != "layers":
        raise NotImplementedError("a layer alone is one program: see the peer pyconvopt")
    functions = torch_layer.Functions(
        pco.functional.conv2d,
        partial(pco.functional.batch_norm, training=True, activation="relu"),
        pco.functional.max_pool2d,
        pco.functional.dropout,
        optimizers.SGD,
        optimizers.Adam,
        version(),
    )
    return torch_layer.make(functions, problem, pass_, threads, channels_last=True)


def make_inference(
    model: models.Model, batch: int, threads: int, *, manner: str, data: str | None = None
) -> Workload:
    """The module in evaluation mode, called without gradients."""
    torch.set_num_threads(threads)
    if manner == "layers":
        module: torch.nn.Module = build(model)
        module.set_weights(models.keras_weights(module.get_weights()))
        x, y = (torch.from_numpy(array) for array in models.example_batch(model, batch))
    elif manner == "nn":
        module = torch_.start(model.torch(NN)).to(memory_format=torch.channels_last)
        x, y = torch_.example(model, batch)
    elif manner in ("accelerate", "frozen"):
        module = torch_.start(model.torch(torch.nn)).eval()
        module = pco.accelerate(module, frozen=manner == "frozen")
        x, y = torch_.example(model, batch)
    else:
        raise NotImplementedError(f"inference is not written for the manner {manner!r}")
    work = torch_.inference(module.eval(), x, y, torch_.parameter_count(module))
    return replace(work, version=version())


def make_fit(model: models.Model, batch: int, threads: int, *, data: str, manner: str) -> Workload:
    """An epoch of the article's program: softmax output, Adam, accuracy."""
    if manner != "layers":
        raise NotImplementedError("fit belongs to pyconvopt.layers: see the peer pyconvopt")
    torch.set_num_threads(threads)
    train, test = images.load(data)
    module = build(model, "softmax")
    module.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])

    def epoch() -> Any:
        return module.fit(*train, epochs=1, batch_size=batch, verbose=0)

    def accuracy() -> float:
        return float(module.evaluate(*test, verbose=0)[1])

    return Workload(epoch, accuracy, torch_.parameter_count(module), version())


def make_time_to_accuracy(
    model: models.Model,
    batch: int,
    threads: int,
    *,
    data: str,
    manner: str,
    recipe: str,
    seed: int,
    epochs: int | None,
    target: float,
) -> Workload:
    """A recipe as `pyconvopt train` runs it; `batch` is its own, `epochs` (None) too."""
    if manner != "layers":
        raise NotImplementedError("a recipe is one program: see the peer pyconvopt")
    torch.set_num_threads(threads)

    def train(course: Course) -> None:
        chosen = Recipe.load(recipe)
        chosen.set("fit.seed", seed)
        scale = chosen.table["data"]["scale"]
        with np.load(data) as arrays:
            pair = scaled(arrays["x"], scale), arrays["y"]
            test, labels = scaled(arrays["x_test"], scale), arrays["y_test"]

        def look(epoch: int, logs: Any) -> None:
            module = hook.model
            if course.epoch_ends(lambda: (module.predict(test).argmax(1) == labels).mean()):
                module.stop_training = True

        hook = LambdaCallback(on_epoch_end=look)
        options = {} if epochs is None else {"epochs": epochs}
        fit_recipe(chosen, pair, None, callbacks=[hook], verbose=0, **options)

    return workload(train, target, version())
