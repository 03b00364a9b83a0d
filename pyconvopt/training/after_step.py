"""What weights undergo after the optimiser's step: proximal steps, then constraints."""

from __future__ import annotations

from typing import Any

from torch import nn

from pyconvopt import constraints, regularizers


class AfterStep:
    """The proximal steps and constraints of a model, found once and called every step."""

    def __init__(self, model: nn.Module, optimizer: Any) -> None:
        self.proximal = regularizers.proximal_terms(model, optimizer)
        self.limits = constraints.limits(model)

    def __call__(self, step: int) -> None:
        """Move the weights, in place."""
        for term in self.proximal:
            term.apply(step)
        for limit in self.limits:
            limit.apply()


def after_step(model: nn.Module, optimizer: Any) -> AfterStep | None:
    """What to call after each step of the optimiser; None where there is nothing to do."""
    found = AfterStep(model, optimizer)
    return found if found.proximal or found.limits else None
