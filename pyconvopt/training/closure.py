"""What an optimiser is given that asks for the gradient more than once a step, as SAM does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

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
            return self.loss
        x, y, weight = self.batch
        self.trainer.optimizer.zero_grad(set_to_none=True)
        with buffers_kept(self.trainer.model):
            loss = self.trainer.total_loss(*self.trainer.run(x, y, None), weight)
            self.trainer.processes.weighted(loss).backward()
        if self.trainer.clip is not None:
            self.trainer.clip(self.trainer.optimizer)
        return loss


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
    wants = bool(getattr(optimizer, "needs_closure", False))
    if wants and accumulate > 1:
        raise ValueError(
            f"{type(optimizer).__name__} computes the gradient of a batch twice, so accumulate must "
            f"be 1, got {accumulate}"
        )
    return wants
