"""The training loop: batches in, a History out. Works with any nn.Module.

An epoch is: for each batch a step (forward, loss, penalty, backward, update), then validation. The
passes and the numbers are the `Evaluator`'s, a step is of the `Updates`; here is the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from numbers import Real
from pathlib import Path
from typing import Any

from torch import nn

from pyconvopt import schedules
from pyconvopt.data import checks as data_checks
from pyconvopt.data.loader import ArrayLoader, as_batches
from pyconvopt.data.split import split
from pyconvopt.data.stream import Stream
from pyconvopt.schedules.base import require_rate
from pyconvopt.training import arguments, checks
from pyconvopt.training.after_step import count_passes, count_updates
from pyconvopt.training.backup import BackupAndRestore
from pyconvopt.training.callbacks import Callback, CallbackList, LazyLogs, listed
from pyconvopt.training.clipping import Clipping
from pyconvopt.training.history import History
from pyconvopt.training.processes import Processes, join
from pyconvopt.training.rates import note_rate
from pyconvopt.training.updates import Updates
from pyconvopt.training.weighting import class_weights


class Trainer(Updates):
    """Trains a model: Trainer(model, optimizer='adam', loss=...).fit((x, y), epochs=5).

    Args:
        model: any nn.Module. Inputs are given as it takes them: N, H, W, C for
            `models.Sequential`, N, C, H, W for a torch model.
        optimizer: a name, {"name": ..., "config": {settings}}, a callable of the parameters, or a
            torch optimiser. It is made at the first `fit` and kept, so a second `fit` goes on
            where the first ended.
        loss: a name, or a function (outputs, targets) -> scalar. Where a `Sequential` classifies each
            pixel or step, (N, ..., classes), a function of your own sees what `predict` gives;
            modules and metrics have the classes on axis 1.
        metrics: names, `Metric` objects, or torchmetrics'; one, or several in a list.
        schedule: None, or what `schedules.get` takes, such as a function of the step that gives
            its learning rate. Steps are counted over all fits; the run, whose share some count,
            ends with this fit. The rate is the first parameter group's; others keep their ratio
            to it. That of an epoch's last step is in its logs and the history as 'learning_rate'.
        regularizers: a mapping of parameter patterns to penalties, as `regularizers.attach` takes.
        callbacks: a `Callback`, or several in a list.
        learning_rate: None (the optimiser's own), or the rate of an optimiser given by name.
        accumulate: batches whose gradients are averaged for one update (1). A step, for the
            schedule too, is then an update.
        clip_norm, clip_value: None, or the most the gradients' common norm, or each of their
            entries, may be. SGD, Adam and AdamW of this library clip by norm within their step: the
            gradients themselves stay what they are.
        adaptive_clip: None, or the most a unit's gradient may be beside its weights: a number
            (0.01), an `AdaptiveClip`, or a mapping of its settings.
        guard: a loss that is NaN or infinite stops the run, puts the last good weights back (of
            some 200 steps ago, or where the loss began to blow up before that) and warns; `failure`
            then says what happened. An average of weights is not put in then.
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
        metrics: Any = (),
        schedule: Any = None,
        regularizers: Mapping[str, Any] | None = None,
        callbacks: Sequence[Callback] | Callback = (),
        learning_rate: float | None = None,
        accumulate: int = 1,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        adaptive_clip: Any = None,
        guard: bool = True,
        sync_batchnorm: bool = True,
    ) -> None:
        super().__init__(model, loss, metrics)
        self.optimizer_spec = optimizer
        self.optimizer = self.optimizer_settings = None
        self.schedule = self.rate_at = schedules.get(schedule)
        self.regularizers = regularizers
        self.callbacks = listed(callbacks)
        self.hooks = CallbackList(())
        self.accumulate = arguments.whole("accumulate", accumulate)
        self.clipping = Clipping(clip_norm, clip_value, adaptive_clip)
        self.clip = None
        if learning_rate is not None:
            require_rate(learning_rate, "learning_rate")
        self.optimizer_options = {} if learning_rate is None else {"lr": learning_rate}
        self.given_options = arguments.given_options(
            self.clipping,
            learning_rate=(learning_rate, None),
            accumulate=(accumulate, 1),
            guard=(guard, True),
            sync_batchnorm=(sync_batchnorm, True),
        )
        self.wants_guard = guard
        self.guard = None
        self.accumulation = None
        self.class_weight = None
        self.sync_batchnorm = sync_batchnorm
        self.first_step = 0
        self.position = (0, 0)  # the epoch at hand, and the batch it began with
        self.last_batch = None

    def fit(
        self,
        data: Any,
        epochs: int = 1,
        batch_size: int = 32,
        validation: Any = None,
        shuffle: bool = True,
        seed: int | None = None,
        verbose: int | str = "auto",
        callbacks: Sequence[Callback] | Callback = (),
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
            validation: data of the same kinds (a list [x, y] too), evaluated after each epoch; or a
                share: so much of the end of arrays or a Dataset (of each class of an ImageFolder)
                is held out.
            shuffle, seed: whether and how each epoch is shuffled; the seed is that of dropout and
                other noise in layers too. None: torch's generator says.
            verbose: 'auto' or 1 (bar on a terminal, else lines), 2 (lines), 0 (nothing).
            callbacks: more of them, for this run only.
            initial_epoch: the number of the first epoch, when a run is taken up again.
            class_weight: {class: weight}, or 'balanced' (samples / (classes * those of the
                class)), in training alone; sample_weight: one a sample, or for each pixel or step
                that has an output. The loss of a batch is the sum of weight times loss over its
                number of samples; of pixels or steps, over the number of those.
            steps_per_epoch: batches an epoch; the data go on where the epoch before left them.
            validation_steps: the most batches of a validation, which comes every
                `validation_freq` epochs, or after those of a list (counted from 1), in batches of
                `validation_batch_size` (None: 256, or batch_size if that is more).
            checkpoint: a folder; a run that is killed and started again goes on there, to the
                same bits, and one that has ended comes back at once. Or a `BackupAndRestore`.
            every: how often it is written: 'epoch', a number of batches, or a `timedelta`.

        Errors: ValueError and TypeError for data the model cannot be trained on, ValueError for a
        schedule that ends before the run.
        """
        self.processes = group = join()
        group.align()
        epochs = arguments.whole("epochs", epochs, 0)
        initial_epoch = arguments.whole("initial_epoch", initial_epoch, 0)
        batch_size = arguments.whole("batch_size", batch_size)
        seed = None if seed is None else arguments.whole("seed", seed, None)
        data = arguments.weighted(data, sample_weight)
        validation = tuple(validation) if isinstance(validation, list) else validation
        if isinstance(validation, Real):
            data, validation = split(data, float(validation))
        loader = as_batches(data, batch_size, shuffle, seed, initial_epoch)
        group.seed = arguments.noise_seed(seed, None if loader is data else loader)
        size = validation_batch_size or max(batch_size, 256)
        if validation_steps is not None:
            arguments.whole("validation_steps", validation_steps)
        held_out = None if validation is None else as_batches(validation, size)
        validates = arguments.validation_epochs(validation_freq)
        self.stream, self.held_out = Stream(loader, steps_per_epoch), held_out
        group.align(loader, held_out)
        verbose = verbose if group.is_first else 0
        run = arguments.run_parameters(self.stream, epochs, verbose, held_out is not None)
        length = run["steps"], max(epochs - initial_epoch, 0)
        self.first_step = began_with = self.step_number
        self.count_in_steps(*length)
        self.prepare(loader)
        self.class_weight = class_weights(class_weight, loader, self)
        if isinstance(held_out, ArrayLoader):
            self.try_first_batch(held_out)
        history = History()
        own = [*self.callbacks, *listed(callbacks), *arguments.backup(checkpoint, every)]
        own += arguments.average_of(self.optimizer, own)
        own = [each for each in own if group.is_first or not each.first_process_only]
        self.hooks = hooks = CallbackList([*own, history, *arguments.bar_for(verbose)])
        hooks.bind(self.model, self, run)
        checks.averages_are_apart(hooks.callbacks)
        checks.rate_has_one_master(self.schedule, hooks.callbacks)
        self.model.stop_training = False
        self.position = (initial_epoch, 0)
        hooks.call("on_train_begin", {})
        if self.first_step != began_with:  # a checkpoint's run, which this trainer had begun before
            self.count_in_steps(*length)
            self.follow_run()
        logs: dict[str, float] = {}
        first = True
        try:
            count_updates(self.model, self.run_length, self.step_number)
            while self.position[0] < epochs:
                epoch, batch = self.position
                if self.model.stop_training and batch == 0:
                    break
                hooks.call("on_epoch_begin", epoch, {})
                self.train_epoch(self.stream, hooks, first, batch)
                if epoch + 1 == epochs or self.model.stop_training:
                    self.check_last_update()
                logs, first = self.logs(), False
                if held_out is not None and validates(epoch):
                    hooks.call("on_test_begin", {})
                    seen = self.measure(held_out, validation_steps, hooks)
                    logs |= {f"val_{name}": value for name, value in seen.items()}
                    hooks.call("on_test_end", logs)
                if self.rate_at is not None:
                    note_rate(self, logs)
                hooks.call("on_epoch_end", epoch, logs)
                self.position = (epoch + 1, 0)
            self.check_last_update()
        finally:
            count_passes(self.model)
            hooks.call("on_train_end", logs)
            self.processes, self.last_batch, self.is_in_epoch = Processes(), None, False
            del self.stream, self.held_out  # a copy of the model is not to hold the data
            self.settle()
        return history

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
        self.is_in_epoch = True
        batches = self.processes.own(stream.loader, stream.epoch(first_batch))
        for batch, parts in enumerate(batches, first_batch):
            if check:
                data_checks.require_parts(parts)
            for hook in begin:
                hook(batch, running)
            self.step(*parts, check_against=stream.loader if check else None)
            check = False
            for hook in end:
                hook(batch, running)
            self.last_batch = parts
            if self.model.stop_training:
                break
        self.is_in_epoch = False
        if self.between_updates:
            self.update()
