"""Gradients of several batches for one update: a large batch in the memory of a small one.

Each batch adds the gradient of its loss times its samples; before the update the sum is divided by all
samples. That is the gradient of the mean over one large batch, also where the batches differ in size.
(Batch norm still sees the small batches.)
"""

from __future__ import annotations

import torch
from torch import Tensor


class Accumulation:
    """Sums up the gradients of `batches` batches."""

    def __init__(self, parameters: list[Tensor], batches: int) -> None:
        self.parameters = parameters
        self.batches = batches
        self.added = self.samples = 0

    def add(self, loss: Tensor, samples: int) -> bool:
        """Add a batch; whether there are now enough for an update."""
        if not self.added:
            for parameter in self.parameters:
                parameter.grad = None
        (loss * samples).backward()
        self.added += 1
        self.samples += samples
        return self.added == self.batches

    def average(self) -> None:
        """Turn the sums into means, ready for the optimiser, and begin anew."""
        gradients = [each.grad for each in self.parameters if each.grad is not None]
        torch._foreach_div_(gradients, float(self.samples))
        self.added = self.samples = 0
