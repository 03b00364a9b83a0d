"""What follows the optimiser's step: proximal steps, constraints, a count of updates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from pyconvopt import constraints, regularizers
from pyconvopt.nn import ScheduledDropout
from pyconvopt.regularizers.terms import RunLength


class AfterStep:
    """The proximal steps, constraints and counts of a model, found once and called every step.

    False where there is nothing to do.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        run: RunLength | None = None,
        penalties: Mapping[str, Any] | None = None,
    ) -> None:
        self.proximal = regularizers.proximal_terms(model, optimizer, run, penalties)
        self.limits = constraints.limits(model)
        self.dropouts = scheduled_dropouts(model)

    def __bool__(self) -> bool:
        return bool(self.proximal or self.limits or self.dropouts)

    def __call__(self, step: int) -> None:
        """Move the weights, in place, and count."""
        for term in self.proximal:
            term.apply(step)
        for limit in self.limits:
            limit.apply()
        for dropout in self.dropouts:
            dropout.step.add_(1)


def scheduled_dropouts(model: nn.Module) -> list[ScheduledDropout]:
    """Those of the model whose probability follows a count."""
    return [each for each in model.modules() if isinstance(each, ScheduledDropout)]


def count_updates(model: nn.Module, run: RunLength, done: int) -> None:
    """Have scheduled dropouts follow the updates of a run, not the passes, from now on.

    `done`: the updates of the run that are over; what a dropout has counted before is no part of it.
    """
    for dropout in scheduled_dropouts(model):
        per_epoch, total = run
        before = int(dropout.step) - done
        dropout.follow_run(per_epoch, None if total is None else total + before)


def count_passes(model: nn.Module) -> None:
    """Have scheduled dropouts count by themselves again."""
    for dropout in scheduled_dropouts(model):
        dropout.counts_passes = True
