"""The training loop: batches in, a History out. Works with any nn.Module.

An epoch is: for each batch a step (forward, loss, penalty, backward, update), then validation.
Everything that can be decided once is decided before the loop (hooks, penalties, whether the
loss takes logits), and numbers are kept as tensors and read only when somebody looks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pyconvopt import losses, optimizers, regularizers, schedules
from pyconvopt.data.loader import ArrayLoader, Loader, as_batches
from pyconvopt.data.split import split
from pyconvopt.data.stream import Stream
from pyconvopt.metrics import Average, get_all
from pyconvopt.training import arguments, checks
from pyconvopt.training.accumulation import Accumulation
from pyconvopt.training.after_step import after_step
from pyconvopt.training.backup import BackupAndRestore
from pyconvopt.training.callbacks import Callback, CallbackList, LazyLogs
from pyconvopt.training.closure import Closure, wants_closure
from pyconvopt.training.guard import FiniteGuard
from pyconvopt.training.history import History
from pyconvopt.training.inference import build_for, evaluating, place
from pyconvopt.training.labels import loss_targets
from pyconvopt.training.processes import Processes, join
from pyconvopt.training.weighting import ClassWeights, class_weights, weighted_loss


class Trainer:
    """Trains a model: Trainer(model, optimizer='adam', loss=...).fit((x, y), epochs=5).

    Args:
        model: any nn.Module. Inputs are given as it takes them: N, H, W, C for
            `models.Sequential`, N, C, H, W for a torch model.
        optimizer: a name, {"name": ..., "config": {settings}}, a callable of the parameters, or a
            torch optimiser. It is made at the first `fit` and kept, so a second `fit` goes on
            where the first ended.
        loss: a name, or a function (outputs, targets) -> scalar.
        metrics: names, `Metric` objects, or torchmetrics'.
        schedule: None, or what `schedules.get` takes, such as a function of the step that gives
            its learning rate. Steps are counted over all fits; the run, whose share some count,
            ends with this fit.
        regularizers: a mapping of parameter patterns to penalties, as `regularizers.attach` takes.
        callbacks: `Callback` objects.
        learning_rate: None (the optimiser's own), or the rate of an optimiser given by name.
        accumulate: batches whose gradients are averaged for one update (1). A step, for the
            schedule too, is then an update.
        clip_norm, clip_value: None, or the most the gradients' common norm, or each of their
            entries, may be.
        guard: a loss that is NaN or infinite stops the run, puts the last good weights back (at
            most 200 steps old) and warns; `failure` then says what happened.
        sync_batchnorm: where several processes train (`torchrun`), batch norms take mean and
            variance of the joined batch (False: each process those of its part).

    >>> import torch
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
        learning_rate: float | None = None,
        accumulate: int = 1,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        guard: bool = True,
        sync_batchnorm: bool = True,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"the model must be a torch nn.Module, got {type(model).__name__}")
        self.model: Any = model
        self.optimizer_spec = optimizer
        self.optimizer: Any = None  # a torch optimiser from the first fit on
        self.loss = losses.get(loss)
        self.loss_mean = Average("loss")
        self.metrics = get_all(metrics)
        self.schedule = self.rate_at = schedules.get(schedule)
        self.regularizers = regularizers
        self.callbacks = list(callbacks)
        self.accumulate = arguments.whole("accumulate", accumulate)
        self.clip = arguments.clipping(clip_norm, clip_value)
        self.optimizer_options: dict[str, Any] = (
            {} if learning_rate is None else {"lr": learning_rate}
        )
        self.update_options = arguments.update_options(
            learning_rate, accumulate, clip_norm, clip_value
        )
        self.wants_guard = guard
        self.guard: FiniteGuard | None = None
        self.accumulation: Accumulation | None = None
        self.class_weight: ClassWeights | None = None
        self.sync_batchnorm = sync_batchnorm
        self.processes = Processes()  # those of a fit; outside it this one is alone
        self.step_number = 0
        self.samples_seen = 0
        self.position = (0, 0)  # the epoch at hand, and the batch it began with

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
        class_weight: Mapping[int, float] | str | None = None,
        sample_weight: Any = None,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_freq: int | Sequence[int] = 1,
        validation_batch_size: int | None = None,
        checkpoint: str | Path | BackupAndRestore | None = None,
        every: str | int | timedelta = "epoch",
    ) -> History:
        """Train for `epochs` epochs and return the History.

        Started by `torchrun`, or in a process group of yours, all processes train the one model,
        each on its part of every batch; see `processes`.

        Args:
            data: (x, y) or (x, y, weights) arrays or tensors, a Dataset, a DataLoader (its own
                batch size and order), a generator of batches or a function that makes one.
            validation: data of the same kinds, evaluated after each epoch; or a share: so much of
                the end of arrays or a Dataset (of each class of an ImageFolder) is held out.
            shuffle, seed: whether and how each epoch is shuffled; None: torch's generator says.
            verbose: 'auto' or 1 (bar on a terminal, else lines), 2 (lines), 0 (nothing).
            callbacks: more of them, for this run only.
            initial_epoch: the number of the first epoch, when a run is taken up again.
            class_weight: {class: weight}, or 'balanced' (samples / (classes * those of the
                class)), in training alone; sample_weight: one a sample. The loss of a batch is the
                sum of weight times loss over its number of samples.
            steps_per_epoch: batches an epoch; the data go on where the epoch before left them.
            validation_steps: the most batches of a validation, which comes every
                `validation_freq` epochs, or after those of a list (counted from 1), in batches of
                `validation_batch_size` (None: 256, or batch_size if that is more).
            checkpoint: a folder; a run that is killed and started again goes on there, to the
                same bits, and one that has ended comes back at once. Or a `BackupAndRestore`.
            every: how often it is written: 'epoch', a number of batches, or a `timedelta`.

        Errors: ValueError and TypeError for data the model cannot be trained on.
        """
        self.processes = group = join()
        group.align()
        data = arguments.weighted(data, sample_weight)
        if isinstance(validation, Real):
            data, validation = split(data, float(validation))
        loader = as_batches(data, batch_size, shuffle, seed, initial_epoch)
        size = validation_batch_size or max(batch_size, 256)
        held_out = None if validation is None else as_batches(validation, size)
        validates = arguments.validation_epochs(validation_freq)
        self.class_weight = class_weights(class_weight, loader)
        self.stream = Stream(loader, steps_per_epoch)
        group.align(loader, held_out)
        self.prepare(loader)
        if isinstance(held_out, ArrayLoader):
            self.try_first_batch(held_out)
        history = History()
        own = [*self.callbacks, *callbacks, *arguments.backup(checkpoint, every)]
        own += arguments.average_of(self.optimizer, own)
        own = [each for each in own if group.is_first or not each.first_process_only]
        verbose = verbose if group.is_first else 0
        self.hooks = hooks = CallbackList([*own, history, *arguments.bar_for(verbose)])
        run = arguments.run_parameters(self.stream, epochs, verbose, held_out is not None)
        hooks.bind(self.model, self, run)
        checks.rate_has_one_master(self.schedule, hooks.callbacks)
        self.rate_at = self.schedule_for(run["steps"], epochs - initial_epoch)
        self.model.stop_training = False
        self.position = (initial_epoch, 0)
        hooks.call("on_train_begin")
        logs: dict[str, float] = {}
        first = True
        try:
            while self.position[0] < epochs:
                epoch, batch = self.position
                if self.model.stop_training and batch == 0:
                    break
                hooks.call("on_epoch_begin", epoch)
                self.train_epoch(self.stream, hooks, first, batch)
                logs, first = self.logs(), False
                if held_out is not None and validates(epoch):
                    hooks.call("on_test_begin")
                    seen = self.measure(held_out, validation_steps, hooks)
                    logs |= {f"val_{name}": value for name, value in seen.items()}
                    hooks.call("on_test_end", logs)
                hooks.call("on_epoch_end", epoch, logs)
                self.position = (epoch + 1, 0)
        finally:
            hooks.call("on_train_end", logs)
            self.processes = Processes()
            self.settle()
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
            # Settings may sort parameters by their modules, for which those are needed.
            has_settings = isinstance(self.optimizer_spec, Mapping)
            self.optimizer = optimizers.get(
                self.optimizer_spec,
                self.model if has_settings else trainable,
                **self.optimizer_options,
            )
        checks.warn_of_slips(self.model, self.optimizer)
        updated = [each for group in self.optimizer.param_groups for each in group["params"]]
        self.accumulation = Accumulation(updated, self.accumulate) if self.accumulate > 1 else None
        self.guard = FiniteGuard(self.model) if self.wants_guard else None
        self.wants_closure = wants_closure(self.optimizer, self.accumulate)
        self.after_step = after_step(self.model, self.optimizer)
        self.processes.connect(self.model, loader, self.sync_batchnorm)
        self.settle()

    def schedule_for(self, batches: int | None, epochs: int) -> Callable[[int], float] | None:
        """The schedule in steps, of a run of that many batches an epoch."""
        updates = None if batches is None else -(-batches // self.accumulate)
        return schedules.for_run(self.schedule, updates, epochs, done=self.step_number)

    def try_first_batch(self, loader: ArrayLoader) -> None:
        """Refuse validation data that do not fit now, not after an epoch of training."""
        checks.require_labels(loader, self.loss)
        with evaluating(self.model):
            x, y = next(iter(loader))[:2]
            self.run(x, y, loader)

    def settle(self) -> None:
        """Read from the model what a batch needs: where it lies, its penalties, its last step."""
        self.device, self.dtype = place(self.model)
        self.penalties = regularizers.terms(self.model)
        ending = getattr(self.model, "output_activation", None)
        self.takes_logits = ending is not None and ending == self.loss.absorbs
        model = self.processes.parallel or self.model
        self.forward = partial(model, logits=True) if self.takes_logits else model

    def train_epoch(
        self, stream: Stream, hooks: CallbackList, check: bool, first_batch: int = 0
    ) -> None:
        """One epoch from a batch on; `check` looks at that batch's shapes and all labels."""
        begin, end = hooks.hooks("on_train_batch_begin"), hooks.hooks("on_train_batch_end")
        running = LazyLogs(self.logs)
        self.model.train()
        if first_batch == 0:
            self.reset()
        elif self.model.stop_training:
            return
        batches = self.processes.own(stream.loader, stream.epoch(first_batch))
        for batch, parts in enumerate(batches, first_batch):
            for hook in begin:
                hook(batch, running)
            self.step(*parts, check_against=stream.loader if check else None)
            check = False
            for hook in end:
                hook(batch, running)
            if self.model.stop_training:
                break
        if self.between_updates:
            self.update()

    def step(
        self, x: Tensor, y: Tensor, weight: Tensor | None = None, *, check_against: Any = None
    ) -> None:
        """Forward, loss, penalty, backward, update, for one batch."""
        if self.rate_at is not None:
            rate = float(self.rate_at(self.step_number))
            for group in self.optimizer.param_groups:
                group["lr"] = rate
        if self.accumulation is None:
            self.optimizer.zero_grad(set_to_none=True)
        outputs, targets = self.run(x, y, check_against)
        if self.class_weight is not None:
            weight = self.class_weight(targets) * (1.0 if weight is None else weight)
        loss = self.total_loss(outputs, targets, weight)
        seen = self.count(loss.detach(), outputs.detach(), targets)
        if self.guard is not None and not self.guard.passes(
            seen, self.step_number, self.optimizer.param_groups[0]["lr"]
        ):
            self.model.stop_training, self.accumulation = True, None
        elif self.accumulation is None:
            self.processes.weighted(loss).backward()
            self.update(Closure(self, loss, x, y, weight) if self.wants_closure else None)
        elif self.accumulation.add(self.processes.weighted(loss), self.processes.samples or len(x)):
            self.update()

    def update(self, closure: Closure | None = None) -> None:
        """One step of the optimiser with the gradients there are."""
        if self.accumulation is not None:
            self.accumulation.average()
        if self.clip is not None:
            self.clip(self.optimizer)
        self.optimizer.step(closure)
        if self.after_step is not None:
            self.after_step(self.step_number)
        self.step_number += 1

    @property
    def between_updates(self) -> bool:
        """Whether gradients wait for further batches before an update."""
        return self.accumulation is not None and self.accumulation.added > 0

    @property
    def failure(self) -> str | None:
        """Why the last fit was stopped by its guard; None if it was not."""
        return None if self.guard is None else self.guard.message

    def run(self, x: Tensor, y: Tensor, check_against: Loader | None) -> tuple[Tensor, Tensor]:
        """Outputs (logits where the loss takes them) and targets in the loss's type."""
        try:
            with self.processes.own_noise(self.step_number, self.samples_seen):
                outputs = self.forward(x.to(self.device, self.dtype))
        except ValueError as error:
            raise checks.clearer(error, len(x)) from None
        targets = loss_targets(self.loss, y.to(self.device), outputs, self.dtype)
        if check_against is not None and len(x):
            checks.with_first_batch(check_against, self.loss, outputs, targets, self.takes_logits)
        return outputs, targets

    def total_loss(self, outputs: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss with the penalties on the weights; of no samples, 0 with gradients of 0."""
        if not len(targets):
            return outputs.sum()
        if weight is None:
            loss = self.loss(outputs, targets, self.takes_logits)
        else:
            weight = weight.to(outputs.device, outputs.dtype)
            loss = weighted_loss(self.loss, outputs, targets, weight, self.takes_logits)
        if self.penalties:
            loss = loss + regularizers.penalty(self.penalties, self.step_number)
        return loss

    def reset(self) -> None:
        """Start counting loss and metrics anew."""
        self.samples_seen = 0
        for metric in (self.loss_mean, *self.metrics):
            metric.reset()

    def count(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        """Add a batch to the running means; returns its loss."""
        if self.processes.count > 1:
            return self.processes.count_batch(self, loss, outputs, targets)
        samples = len(targets)
        self.samples_seen += samples
        self.loss_mean.add(loss * samples, samples)
        for metric in self.metrics:
            metric.update(outputs, targets, self.takes_logits)
        return loss

    def logs(self) -> dict[str, float]:
        """The means so far: 'loss' and each metric."""
        found: dict[str, float] = {}
        for metric in (self.loss_mean, *self.metrics):
            found |= metric.results()
        return found

    def evaluate(
        self,
        data: Any,
        batch_size: int = 256,
        steps: int | None = None,
        sample_weight: Any = None,
        callbacks: Sequence[Callback] = (),
    ) -> dict[str, float]:
        """Loss (penalties included) and metrics over the data, in evaluation mode.

        `steps` (None: all): the most batches. `sample_weight`, and weights that come with the
        data, weigh the loss. `callbacks`: of these the test hooks are called.

        Errors: ValueError for labels that do not fit the model.
        """
        loader = as_batches(arguments.weighted(data, sample_weight), batch_size)
        hooks = CallbackList(callbacks)
        hooks.bind(self.model, self)
        hooks.call("on_test_begin")
        logs = self.measure(loader, steps, hooks)
        hooks.call("on_test_end", logs)
        return logs

    def measure(self, loader: Loader, steps: int | None, hooks: CallbackList) -> dict[str, float]:
        """Loss and metrics over a loader's batches, with the hooks of each."""
        begin, end = hooks.hooks("on_test_batch_begin"), hooks.hooks("on_test_batch_end")
        running = LazyLogs(self.logs)
        build_for(self.model, loader)
        if isinstance(loader, ArrayLoader):
            checks.require_labels(loader, self.loss)
        self.settle()
        self.reset()
        with evaluating(self.model):
            batches = self.processes.own(loader, islice(loader, steps))
            for batch, (x, y, *weight) in enumerate(batches):
                for hook in begin:
                    hook(batch, running)
                outputs, targets = self.run(x, y, loader if batch == 0 else None)
                self.count(self.total_loss(outputs, targets, *weight), outputs, targets)
                for hook in end:
                    hook(batch, running)
        if not self.loss_mean.count:
            raise ValueError("there is no batch to evaluate on; a generator can be read only once")
        return self.logs()
