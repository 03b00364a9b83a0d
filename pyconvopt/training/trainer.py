"""The training loop: batches in, a History out. Works with any nn.Module.

An epoch is: for each batch a step (forward, loss, penalty, backward, update), then validation.
Everything that can be decided once is decided before the loop (hooks, penalties, whether the
loss takes logits), and numbers are kept as tensors and read only when somebody looks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pyconvopt import losses, metrics, optimizers, regularizers, schedules
from pyconvopt.data.loader import ArrayLoader, as_batches
from pyconvopt.metrics import Average, Metric
from pyconvopt.training import checks
from pyconvopt.training.after_step import after_step
from pyconvopt.training.callbacks import Callback, CallbackList, LazyLogs
from pyconvopt.training.history import History
from pyconvopt.training.progress import ProgressBar

Loader = ArrayLoader | DataLoader


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards each module is in the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def place(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """The device and float type of a model's weights."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.float32


def build_for(model: Any, loader: Loader) -> None:
    """Build a model that still waits for its input shape."""
    if not getattr(model, "built", True):
        first = loader.x[:1] if isinstance(loader, ArrayLoader) else next(iter(loader))[0]
        model.build(tuple(first.shape))


def predict(model: nn.Module, x: Any, batch_size: int = 256) -> np.ndarray:
    """The model's outputs for arrays or tensors, in evaluation mode, as one NumPy array."""
    loader = as_batches(x, batch_size)
    build_for(model, loader)
    device, dtype = place(model)
    with evaluating(model):
        outputs = [
            model((batch[0] if isinstance(batch, (tuple, list)) else batch).to(device, dtype))
            for batch in loader
        ]
    return torch.cat(outputs).cpu().numpy()


class Trainer:
    """Trains a model: Trainer(model, optimizer='adam', loss=...).fit((x, y), epochs=5).

    Args:
        model: any nn.Module. Inputs are given as it takes them: N, H, W, C for
            `models.Sequential`, N, C, H, W for a torch model.
        optimizer: a name, a callable of the parameters, or a torch optimiser. It is made at the
            first `fit` and kept, so a second `fit` goes on where the first ended.
        loss: a name, or a function (outputs, targets) -> scalar.
        metrics: names or `Metric` objects.
        schedule: None, or what `schedules.get` takes, such as a function of the step that gives
            its learning rate. Steps are counted over all fits; the run, whose share some count,
            ends with this fit.
        regularizers: a mapping of parameter patterns to penalties, as `regularizers.attach` takes.
        callbacks: `Callback` objects.

    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(64, 2)
    >>> model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> trainer = Trainer(model, optimizer='adam', loss='cross_entropy', metrics=['accuracy'])
    >>> history = trainer.fit((x, (x[:, 0] > 0).long()), epochs=2, verbose=0)
    >>> sorted(history.history), len(history.history['loss'])
    (['accuracy', 'loss'], 2)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any = "adam",
        loss: Any = "cross_entropy",
        metrics: Sequence[Any] = (),
        schedule: Any = None,
        regularizers: Mapping[str, Any] | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"the model must be a torch nn.Module, got {type(model).__name__}")
        self.model: Any = model
        self.optimizer_spec = optimizer
        self.optimizer: Any = None  # a torch optimiser from the first fit on
        self.loss = losses.get(loss)
        self.loss_mean = Average("loss")
        self.metrics = as_metrics(metrics)
        self.schedule = self.rate_at = schedules.get(schedule)
        self.regularizers = regularizers
        self.callbacks = list(callbacks)
        self.step_number = 0
        self.samples_seen = 0

    def fit(
        self,
        data: Any,
        epochs: int = 1,
        batch_size: int = 32,
        validation: Any = None,
        shuffle: bool = True,
        seed: int | None = None,
        verbose: int | str = "auto",
        callbacks: Sequence[Callback] = (),
        initial_epoch: int = 0,
    ) -> History:
        """Train for `epochs` epochs and return the History.

        Args:
            data: (x, y) arrays or tensors, a Dataset, or a DataLoader (with a batch size and an
                order of its own).
            validation: data of the same kinds, evaluated after each epoch.
            shuffle, seed: whether and how the samples are shuffled each epoch; seed None takes
                one from torch's generator.
            verbose: 'auto' or 1 (bar on a terminal, else lines), 2 (lines), 0 (nothing).
            callbacks: more of them, for this run only.
            initial_epoch: the number of the first epoch, when a run is taken up again.

        Errors: ValueError and TypeError for data the model cannot be trained on.
        """
        loader = as_batches(data, batch_size, shuffle, seed)
        held_out = None if validation is None else as_batches(validation, max(batch_size, 256))
        self.prepare(loader)
        if isinstance(held_out, ArrayLoader):
            self.try_first_batch(held_out)
        history = History()
        hooks = CallbackList([history, *self.callbacks, *callbacks, *bar_for(verbose)])
        run = run_parameters(loader, epochs, verbose)
        self.rate_at = schedules.for_run(
            self.schedule, run["steps"], epochs - initial_epoch, done=self.step_number
        )
        hooks.bind(self.model, self, run)
        self.model.stop_training = False
        hooks.call("on_train_begin")
        logs: dict[str, float] = {}
        try:
            for epoch in range(initial_epoch, epochs):
                hooks.call("on_epoch_begin", epoch)
                self.train_epoch(loader, hooks, check=epoch == initial_epoch)
                logs = self.logs()
                if held_out is not None:
                    hooks.call("on_test_begin")
                    seen = self.evaluate(held_out)
                    logs |= {f"val_{name}": value for name, value in seen.items()}
                    hooks.call("on_test_end", logs)
                hooks.call("on_epoch_end", epoch, logs)
                if self.model.stop_training:
                    break
        finally:
            hooks.call("on_train_end", logs)
        return history

    def prepare(self, loader: Loader) -> None:
        """Everything that is decided once: the built model, its optimiser, its penalties."""
        build_for(self.model, loader)
        checks.before_training(self.model, loader, self.loss)
        if self.regularizers is not None:
            regularizers.attach(self.model, self.regularizers)
        if self.optimizer is None:
            trainable = [each for each in self.model.parameters() if each.requires_grad]
            if not trainable:
                raise ValueError("the model has no weights to train")
            self.optimizer = optimizers.get(self.optimizer_spec, trainable)
        self.after_step = after_step(self.model, self.optimizer)
        self.settle()

    def try_first_batch(self, loader: ArrayLoader) -> None:
        """Refuse validation data that do not fit now, not after an epoch of training."""
        checks.require_labels(loader, self.loss)
        with evaluating(self.model):
            x, y = next(iter(loader))
            self.run(x, y, loader)

    def settle(self) -> None:
        """Read from the model what a batch needs: where it lies, its penalties, its last step."""
        self.device, self.dtype = place(self.model)
        self.penalties = regularizers.terms(self.model)
        ending = getattr(self.model, "output_activation", None)
        self.takes_logits = ending is not None and ending == self.loss.absorbs
        self.forward = partial(self.model, logits=True) if self.takes_logits else self.model

    def train_epoch(self, loader: Loader, hooks: CallbackList, check: bool) -> None:
        """One pass over the data; `check` looks at the first batch's shapes and all labels."""
        begin, end = hooks.hooks("on_train_batch_begin"), hooks.hooks("on_train_batch_end")
        running = LazyLogs(self.logs)
        self.model.train()
        self.reset()
        for batch, (x, y) in enumerate(loader):
            for hook in begin:
                hook(batch, running)
            self.step(x, y, check_against=loader if check and batch == 0 else None)
            for hook in end:
                hook(batch, running)
            if self.model.stop_training:
                break

    def step(self, x: Tensor, y: Tensor, check_against: Loader | None = None) -> None:
        """Forward, loss, penalty, backward, update, for one batch."""
        if self.rate_at is not None:
            rate = float(self.rate_at(self.step_number))
            for group in self.optimizer.param_groups:
                group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        outputs, targets = self.run(x, y, check_against)
        loss = self.total_loss(outputs, targets)
        loss.backward()
        self.optimizer.step()
        if self.after_step is not None:
            self.after_step(self.step_number)
        self.step_number += 1
        self.count(loss.detach(), outputs.detach(), targets)

    def run(self, x: Tensor, y: Tensor, check_against: Loader | None) -> tuple[Tensor, Tensor]:
        """Outputs (logits where the loss takes them) and targets in the loss's type."""
        try:
            outputs = self.forward(x.to(self.device, self.dtype))
        except ValueError as error:
            if len(x) == 1 and "more than 1 value per channel" in str(error):
                raise ValueError(
                    "a batch of one reached a batch norm in training, which needs at least two "
                    "values a channel: choose a batch_size that leaves no single image at the end"
                ) from None
            raise
        targets = self.loss_targets(y.to(self.device), outputs)
        if check_against is not None:
            checks.with_first_batch(check_against, self.loss, outputs, targets, self.takes_logits)
        return outputs, targets

    def loss_targets(self, y: Tensor, outputs: Tensor) -> Tensor:
        """Labels as the loss wants them: int64 class numbers (N,), or floats (soft labels too)."""
        wants_integers = self.loss.integer_targets
        if wants_integers is None:
            wants_integers = not y.is_floating_point()
        if wants_integers and not losses.is_soft(y, outputs):
            one_column = y.dim() == outputs.dim() == 2 and y.shape[1] == 1
            return (y[:, 0] if one_column else y).to(torch.int64)
        one_output = y.dim() + 1 == outputs.dim() and outputs.shape[-1] == 1
        return (y[..., None] if one_output else y).to(self.dtype)

    def total_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss with the penalties on the weights."""
        loss = self.loss(outputs, targets, self.takes_logits)
        if self.penalties:
            loss = loss + regularizers.penalty(self.penalties, self.step_number)
        return loss

    def reset(self) -> None:
        """Start counting loss and metrics anew."""
        self.samples_seen = 0
        for metric in (self.loss_mean, *self.metrics):
            metric.reset()

    def count(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch to the running means."""
        samples = len(targets)
        self.samples_seen += samples
        self.loss_mean.add(loss, samples)
        for metric in self.metrics:
            metric.update(outputs, targets, self.takes_logits)

    def logs(self) -> dict[str, float]:
        """The means so far: 'loss' and each metric."""
        return {metric.name: metric.result() for metric in (self.loss_mean, *self.metrics)}

    def evaluate(self, data: Any, batch_size: int = 256) -> dict[str, float]:
        """Loss (penalties included) and metrics over the data, in evaluation mode.

        Errors: ValueError for labels that do not fit the model.
        """
        loader = as_batches(data, batch_size)
        build_for(self.model, loader)
        if isinstance(loader, ArrayLoader):
            checks.require_labels(loader, self.loss)
        self.settle()
        self.reset()
        with evaluating(self.model):
            for batch, (x, y) in enumerate(loader):
                outputs, targets = self.run(x, y, loader if batch == 0 else None)
                self.count(self.total_loss(outputs, targets), outputs, targets)
        return self.logs()


def as_metrics(specs: Sequence[Any]) -> list[Metric]:
    """Metrics from names or objects; two of one name would hide each other."""
    found = [metrics.get(spec) for spec in specs]
    names = [metric.name for metric in found]
    for name in names:
        if names.count(name) > 1 or name == "loss":
            raise ValueError(f"two numbers of the run would both be called {name!r}")
    return found


def bar_for(verbose: int | str) -> list[Callback]:
    """The progress display that `verbose` asks for."""
    if verbose not in ("auto", 0, 1, 2):
        raise ValueError(f"verbose must be 'auto', 0, 1 or 2, got {verbose!r}")
    return [] if verbose == 0 else [ProgressBar(False if verbose == 2 else None)]


def run_parameters(loader: Loader, epochs: int, verbose: int | str) -> dict[str, Any]:
    """Keras' `params`: what a callback may want to know of the run."""
    dataset: Any = loader if isinstance(loader, ArrayLoader) else loader.dataset
    samples = getattr(loader, "samples", None)
    if samples is None and hasattr(dataset, "__len__"):
        samples = len(dataset)
    return {
        "epochs": epochs,
        "steps": len(loader) if hasattr(loader, "__len__") and samples is not None else None,
        "samples": samples,
        "batch_size": loader.batch_size,
        "verbose": verbose,
    }
