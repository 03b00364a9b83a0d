"""What happens when the loss is no number any more: the run stops with weights that were good.

A loss that is NaN or infinite was computed with weights that the update before may have spoilt. So a
copy of the weights is taken every `STEPS_BETWEEN_COPIES` steps, at a step whose loss was finite; the
copy comes back.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn

STEPS_BETWEEN_COPIES = 200


class FiniteGuard:
    """Looks at the loss of every step before anything is updated with it.

    message: what went wrong, None as long as nothing did.
    """

    def __init__(self, model: nn.Module) -> None:
        self.tensors = [*model.parameters(), *model.buffers()]
        self.copies: list[Tensor] = []
        self.copied_step = 0
        self.message: str | None = None

    def passes(self, loss: Tensor, step: int, rate: float) -> bool:
        """Whether a step's loss is finite; if not, the weights are put back and a warning says so."""
        value = float(loss)
        if math.isfinite(value):
            if not self.copies or step - self.copied_step >= STEPS_BETWEEN_COPIES:
                self.copies = [tensor.detach().clone() for tensor in self.tensors]
                self.copied_step = step
            return True
        self.message = f"the loss is {value} at step {step} (learning rate {rate:g})"
        if self.copies:
            self.put_back()
            self.message += f": training stops, with the weights of step {self.copied_step}"
        else:
            self.message += ", before anything was learnt: training stops"
        warnings.warn(f"{self.message}; lower the learning rate, or clip gradients", stacklevel=2)
        return False

    def put_back(self) -> None:
        """The weights of the last copy."""
        with torch.no_grad():
            for tensor, copy in zip(self.tensors, self.copies, strict=True):
                tensor.copy_(copy)
