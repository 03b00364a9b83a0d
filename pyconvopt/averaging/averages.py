"""Averages of the weights along the way, kept beside the model: EMA and SWA."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from typing_extensions import override

from pyconvopt.averaging.base import Averaging
from pyconvopt.training.callbacks import Logs


class Average(Averaging):
    """An average of its own beside the model; `rule` of torch's AveragedModel says which."""

    def __init__(self, in_validation: bool, at_end: bool, batches: int) -> None:
        super().__init__(in_validation, at_end, batches)
        self.average: AveragedModel | None = None

    def rule(self) -> Callable[..., None] | None:
        """AveragedModel's `multi_avg_fn`; None is the plain mean."""
        return None

    @override
    def attach(self, model: nn.Module) -> None:
        super().attach(model)
        # Of the parameters alone: the rest of a model (its trainer, open files) is not to be copied.
        self.weights = nn.ParameterList(model.parameters())
        self.average = AveragedModel(self.weights, multi_avg_fn=self.rule())

    def update(self) -> None:
        """Take the model's weights into the average.

        Errors: RuntimeError before `attach`.
        """
        if self.average is None:
            raise RuntimeError("update() before attach(model)")
        self.average.update_parameters(self.weights)
        self.statistics = None

    @override
    def ready(self) -> bool:
        return self.average is not None and int(self.average.n_averaged) > 0

    @override
    def put_in(self) -> None:
        assert self.average is not None
        with torch.no_grad():
            pairs = zip(self.weights, self.average.module.parameters(), strict=True)
            for weight, average in pairs:
                weight.copy_(average)

    @override
    def state_dict(self) -> dict[str, Any]:
        """The average and how many weights are in it, beside what every average keeps."""
        average = None if self.average is None else self.average.state_dict()
        return {**super().state_dict(), "average": average}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if self.average is not None and state["average"] is not None:
            self.average.load_state_dict(state["average"])


class EMA(Average):
    """Exponential moving average, after every step: average ← d · average + (1 − d) · weights.

    It begins as the weights after the first step, and looks back over about 1 / (1 − d) steps.
    Where a `Trainer` accumulates several batches, a step is theirs together.

    Args: decay (0.999), warmup (False: d = min(decay, (1 + t) / (10 + t)) at step t, for runs not
    much longer than 1 / (1 − decay)), in_validation, at_end, batches (see `Averaging`).

    Errors: ValueError for a decay outside 0–1.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> ema = EMA(decay=0.5)
    >>> ema.attach(model)
    >>> for value in (1.0, 3.0):
    ...     _ = nn.init.constant_(model.weight, value)
    ...     ema.update()
    >>> with ema.applied():
    ...     print(model.weight.item())
    2.0

    Source: Polyak and Juditsky 1992; the rule is torch.optim.swa_utils'.
    """

    def __init__(
        self,
        decay: float = 0.999,
        warmup: bool = False,
        in_validation: bool = True,
        at_end: bool = True,
        batches: int = 32,
    ) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must lie between 0 and 1, got {decay}")
        super().__init__(in_validation, at_end, batches)
        self.decay = decay
        self.warmup = warmup
        self.taken = -1  # the trainer's steps when weights were taken last

    @override
    def rule(self) -> Callable[..., None]:
        return self.follow

    @torch.no_grad()
    def follow(self, averages: list[Tensor], weights: list[Tensor], count: Tensor | int) -> None:
        """average ← average + (1 − d) · (weights − average)."""
        t = int(count)
        decay = min(self.decay, (1 + t) / (10 + t)) if self.warmup else self.decay
        get_ema_multi_avg_fn(decay)(averages, weights, count)

    def take_step(self) -> None:
        """Take the weights if a step has changed them: not after every batch of one."""
        if self.trainer.step_number != self.taken:
            self.update()
            self.taken = self.trainer.step_number

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "taken": self.taken}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.taken = state.get("taken", self.taken)

    @override
    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        self.taken = self.trainer.step_number

    @override
    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self.take_step()

    # The rest of an epoch is a step that comes after its last batch.

    @override
    def on_test_begin(self, logs: Logs | None = None) -> None:
        self.take_step()
        super().on_test_begin(logs)

    @override
    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.take_step()


class SWA(Average):
    """Stochastic weight averaging: the mean of the weights at the end of each epoch.

    Args: start (0.75: the share of the epochs after which it begins; a whole number is the first
    epoch, counted from 0), in_validation, at_end, batches (see `Averaging`).

    The rate should stay up while it averages: `Cosine(0.1, 0.75, end=0.05)` over the run, say.

    Errors: ValueError for a share outside 0–1, a negative epoch, or one the run does not reach.

    >>> SWA(start=0.5).first_epoch(epochs=10), SWA(start=3).first_epoch(epochs=10)
    (5, 3)

    Source: Izmailov et al. 2018, "Averaging weights leads to wider optima", arXiv:1803.05407.
    """

    def __init__(
        self,
        start: float = 0.75,
        in_validation: bool = True,
        at_end: bool = True,
        batches: int = 32,
    ) -> None:
        start = int(start) if isinstance(start, Integral) else float(start)
        if not (start >= 0 if isinstance(start, int) else 0 <= start <= 1):
            raise ValueError(
                f"start must be a share between 0 and 1 or the number of an epoch, got {start}"
            )
        super().__init__(in_validation, at_end, batches)
        self.start = start
        self.taken = -1

    def first_epoch(self, epochs: int) -> int:
        """The first epoch of a run of so many that is averaged; at least the last one is."""
        if isinstance(self.start, int):
            return self.start
        # Rounded, so that 0.28 of 25 epochs is 7 and not 7.000000000000001.
        return min(math.ceil(round(self.start * epochs, 6)), epochs - 1)

    @override
    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self.epoch = epoch

    def take_epoch(self) -> None:
        """Take this epoch's weights, once: before its validation if there is one."""
        if self.epoch != self.taken and self.epoch >= self.first_epoch(self.params["epochs"]):
            self.update()
            self.taken = self.epoch

    @override
    def on_train_begin(self, logs: Logs | None = None) -> None:
        epochs = self.params["epochs"]
        if self.first_epoch(epochs) >= epochs:
            raise ValueError(f"SWA begins at epoch {self.start} of a run of {epochs} epochs")
        super().on_train_begin(logs)
        self.taken = -1

    @override
    def on_test_begin(self, logs: Logs | None = None) -> None:
        self.take_epoch()
        super().on_test_begin(logs)

    @override
    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.take_epoch()
