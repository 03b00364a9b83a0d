"""One step of training: forward, loss, penalty, backward, update, and the guard over it.

Everything that can be decided once is decided in `prepare`; a step only does what it must.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyconvopt import optimizers, schedules
from pyconvopt.data.loader import Loader
from pyconvopt.optimizers.groups import parameters_of
from pyconvopt.randomness import random_states_kept
from pyconvopt.training import checks
from pyconvopt.training.accumulation import Accumulation
from pyconvopt.training.after_step import AfterStep
from pyconvopt.training.clipping import Clipping
from pyconvopt.training.closure import Closure, buffers_kept, wants_closure
from pyconvopt.training.evaluator import Evaluator
from pyconvopt.training.guard import FiniteGuard
from pyconvopt.training.in_step import InStep, in_step
from pyconvopt.training.inference import build_for
from pyconvopt.training.labels import classes_second
from pyconvopt.training.rates import set_rate
from pyconvopt.training.state import settings_of
from pyconvopt.training.weighting import ClassWeights


class Updates(Evaluator):
    """Base class of `Trainer`, which says how: what a batch does to the weights."""

    optimizer_spec: Any
    optimizer_options: dict[str, Any]
    optimizer: Any  # a torch optimiser from the first fit on
    optimizer_settings: list[dict[str, str]] | None  # those it was made with
    schedule: Any
    rate_at: Callable[[Any], float] | None
    accumulate: int
    accumulation: Accumulation | None
    clipping: Clipping
    clip: Callable[[Any], None] | None
    in_step: InStep | None
    after_step: AfterStep
    wants_guard: bool
    guard: FiniteGuard | None
    class_weight: ClassWeights | None
    sync_batchnorm: bool
    first_step: int  # the number of the step that the run began with
    last_batch: Any  # of the epoch at hand, once it is through

    def prepare(self, loader: Loader) -> None:
        """Everything that is decided once: the built model, its optimiser, its penalties."""
        build_for(self.model, loader)
        checks.before_training(self.model, loader, self.loss)
        if not any(each.requires_grad for each in self.model.parameters()):
            raise ValueError("the model has no weights to train")
        if self.optimizer is None:
            # Settings may sort parameters by their modules, for which those are needed. Frozen ones
            # are among them: they may be trained later.
            has_settings = isinstance(self.optimizer_spec, Mapping)
            self.optimizer = optimizers.get(
                self.optimizer_spec,
                self.model if has_settings else list(self.model.parameters()),
                **self.optimizer_options,
            )
            self.optimizer_settings = settings_of(self.optimizer)
        checks.require_weights(self.model, self.optimizer)
        if not self.loss.is_mean and self.accumulate * self.processes.count > 1:
            warnings.warn(
                "the loss is no mean over samples (weight=, ignore_index= or reduction='sum'): gradients "
                "of several batches or processes are averaged as if it were",
                stacklevel=3,
            )
        checks.warn_of_slips(self.model, self.optimizer)
        updated = parameters_of(self.optimizer)
        self.accumulation = Accumulation(updated, self.accumulate) if self.accumulate > 1 else None
        self.guard = FiniteGuard(self.model) if self.wants_guard else None
        self.wants_closure = wants_closure(self.optimizer, self.accumulate)
        self.processes.connect(self.model, loader, self.sync_batchnorm)
        self.follow_run()

    def follow_run(self) -> None:
        """What depends on the length of the run: penalties, and what comes after a step."""
        self.after_step = AfterStep(self.model, self.optimizer, self.run_length, self.regularizers)
        self.in_step = None
        if not self.wants_closure:
            self.in_step = in_step(self.optimizer, self.clipping.norm, self.after_step)
        self.clip = self.clipping.on(self.model, norm_apart=self.in_step is None)
        self.settle()

    def count_in_steps(self, batches: int | None, epochs: int) -> None:
        """Learn the length of a run of so many batches an epoch, and its learning rates.

        Errors: ValueError for a schedule that ends before the run.
        """
        if not epochs:
            return  # a run without a step has no share to count
        updates = None if batches is None else -(-batches // self.accumulate)
        self.run_length = schedules.run_length(updates, epochs, self.first_step)
        self.rate_at = schedules.for_run(self.schedule, updates, epochs, self.first_step)

    def step(
        self, x: Tensor, y: Tensor, weight: Tensor | None = None, *, check_against: Any = None
    ) -> None:
        """Forward, loss, penalty, backward, update, for one batch."""
        if self.rate_at is not None:
            rate = self.rate_at(self.step_number)
            set_rate(self.optimizer, rate, f"the schedule at step {self.step_number}")
        if self.accumulation is None:
            self.optimizer.zero_grad(set_to_none=True)
        outputs, targets = self.run(x, y, check_against)
        if self.class_weight is not None:
            moved = (
                classes_second(outputs, targets) if self.moves_for_metrics else (outputs, targets)
            )
            weight = self.class_weight(*moved, weight)
        loss = self.total_loss(outputs, targets, weight)
        seen = self.count(loss, outputs.detach(), targets)
        if self.guard is not None and not self.guard.passes(seen, self.step_number, self.rate):
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
        if self.in_step is not None:
            self.in_step(self.step_number)
        self.optimizer.step(closure)
        if self.after_step:
            self.after_step(self.step_number)
        self.step_number += 1

    def check_last_update(self) -> None:
        """One more loss at the end of a run, of its last batch: no step saw the last update."""
        if self.guard is None or self.failure is not None or self.last_batch is None:
            return
        (x, y, *weight), self.last_batch = self.last_batch, None
        with torch.no_grad(), random_states_kept(), buffers_kept(self.model):
            loss = self.total_loss(*self.run(x, y, None), *weight)
        value = float(loss)
        if self.processes.any(not math.isfinite(value) or not self.guard.holds()):
            self.guard.fail(
                f"the last update, step {self.step_number - 1}, left weights that are no numbers or "
                f"give none (loss {value:g}, learning rate {self.rate:g})"
            )
            self.model.stop_training = True

    @property
    def rate(self) -> float:
        """The learning rate of the first group of parameters."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def between_updates(self) -> bool:
        """Whether gradients wait for further batches before an update."""
        return self.accumulation is not None and self.accumulation.added > 0

    @property
    def failure(self) -> str | None:
        """Why the last fit was stopped by its guard; None if it was not."""
        return None if self.guard is None else self.guard.message
