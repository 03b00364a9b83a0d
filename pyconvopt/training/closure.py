"""What an optimiser is given that asks for the gradient more than once a step, as SAM and LBFGS do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pyconvopt.optimizers.closures import needs_closure, repeated

if TYPE_CHECKING:
    from pyconvopt.training.updates import Updates


class Closure:
    """The loss of a batch with its gradients: those just computed, then anew at each further call.

    Gradients are clipped at each call. What a batch leaves behind in the model (batch norm's moving
    statistics, the count of a scheduled dropout) it leaves once.
    """

    def __init__(self, trainer: Updates, loss: Tensor, x: Tensor, y: Tensor, weight: Any) -> None:
        self.trainer, self.loss, self.batch = trainer, loss, (x, y, weight)
        self.called = False

    def __call__(self) -> Tensor:
        """The loss; every parameter's `grad` is that of the weights as they are."""
        if not self.called:
            self.called = True
            return self.joined(self.loss)
        x, y, weight = self.batch
        self.trainer.optimizer.zero_grad(set_to_none=True)
        with repeated(), buffers_kept(self.trainer.model):
            loss = self.trainer.total_loss(*self.trainer.run(x, y, None), weight)
            self.trainer.processes.weighted(loss).backward()
        if self.trainer.clip is not None:
            self.trainer.clip(self.trainer.optimizer)
        return self.joined(loss)

    def joined(self, loss: Tensor) -> Tensor:
        """The loss of all processes' parts: a step that goes by it must go alike in each."""
        processes = self.trainer.processes
        if processes.count == 1:
            return loss
        return processes.sums(processes.weighted(loss))[0] / processes.count


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Whatever passes do within, the model's buffers are afterwards what they were."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)


def wants_closure(optimizer: Any, accumulate: int) -> bool:
    """Whether the optimiser steps with a closure only.

    Errors: ValueError together with accumulated gradients, whose batches are gone by then.
    """
    wants = needs_closure(optimizer)
    if wants and accumulate > 1:
        raise ValueError(
            f"{type(optimizer).__name__} computes the gradient of a batch twice or more, so "
            f"accumulate must be 1, got {accumulate}"
        )
    return wants
