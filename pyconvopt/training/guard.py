"""What happens when the loss is no number any more: the run stops with weights that were good.

A loss that is NaN or infinite was computed with weights that some update before has spoilt, and a rate
that is too large lets the loss grow for a while before it is no number. So a copy of the weights, taken
every `STEPS_BETWEEN_COPIES` steps, only counts once the loss is still calm `STEPS_TO_CONFIRM` steps
later; until then the copy before is kept beside it. Calm is a running mean of the loss that is not above
the loss the run began with, nor ten times its lowest value.

What the last update of a run does no step would see: `Trainer` asks for one more loss then.

A checkpoint holds what the guard knows, the copy included: a run that is taken up again, and fails before
the next copy, comes back to the weights an undisturbed one would. That is the size of the weights once
more in the file, twice while a copy waits to count.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

STEPS_BETWEEN_COPIES = 200
STEPS_TO_CONFIRM = 10


class Copy(NamedTuple):
    """The tensors of a model as they were at a step."""

    values: Sequence[Tensor]
    step: int

    @classmethod
    def of(cls, tensors: Sequence[Tensor], step: int) -> Copy:
        """A copy of them as they are now."""
        return cls([tensor.detach().clone() for tensor in tensors], step)


# What `FiniteGuard` knows besides its copies.
REMEMBERS = ("first", "running", "lowest", "message")


class FiniteGuard:
    """Looks at the loss of every step before anything is updated with it.

    message: what went wrong, None as long as nothing did. good: the copy that would come back.
    """

    def __init__(self, model: nn.Module) -> None:
        self.parameters = list(model.parameters())
        self.tensors = [*self.parameters, *model.buffers()]
        self.good: Copy | None = None
        self.candidate: Copy | None = None
        self.first = self.running = self.lowest = 0.0
        self.message: str | None = None

    def passes(self, loss: Tensor | float, step: int, rate: float) -> bool:
        """Whether a step's loss is finite; if not, the weights are put back and a warning says so."""
        value = float(loss)
        if not math.isfinite(value):
            self.fail(f"the loss is {value} at step {step} (learning rate {rate:g})")
            return False
        if self.good is None:
            self.first = self.running = self.lowest = value
            self.good = Copy.of(self.tensors, step)
            return True
        self.running += 0.1 * (value - self.running)
        self.lowest = min(self.lowest, self.running)
        if self.candidate is not None:
            if step - self.candidate.step >= STEPS_TO_CONFIRM:
                self.good = self.candidate if self.is_calm() else self.good
                self.candidate = None
        elif step - self.good.step >= STEPS_BETWEEN_COPIES and self.is_calm():
            self.candidate = Copy.of(self.tensors, step)
        return True

    def is_calm(self) -> bool:
        """Whether the running mean of the loss is where it was, more or less."""
        return self.running <= max(self.first, self.lowest + 9 * abs(self.lowest))

    def holds(self) -> bool:
        """Whether every weight just updated is a number: for the end of a run, not each step."""
        updated = [each for each in self.parameters if each.grad is not None]
        return all(bool(torch.isfinite(each).all()) for each in updated)

    def fail(self, what: str) -> None:
        """Put the last good weights back, and warn."""
        if self.good is None:
            self.message = f"{what}, before anything was learnt: training stops"
        else:
            with torch.no_grad():
                for tensor, value in zip(self.tensors, self.good.values, strict=True):
                    tensor.copy_(value)
            self.message = f"{what}: training stops, with the weights of step {self.good.step}"
        warnings.warn(f"{self.message}; lower the learning rate, or clip gradients", stacklevel=3)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        copies = {"good": self.good, "candidate": self.candidate}
        return copies | {name: getattr(self, name) for name in REMEMBERS}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""
        for name in ("good", "candidate"):
            setattr(self, name, None if state[name] is None else Copy(*state[name]))
        for name in REMEMBERS:
            setattr(self, name, state[name])
