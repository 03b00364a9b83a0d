"""What an optimiser is given that asks for the gradient more than once a step, as SAM does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from pyconvopt.training.trainer import Trainer


class Closure:
    """The loss of a batch with its gradients: those just computed, then anew at each further call."""

    def __init__(self, trainer: Trainer, loss: Tensor, x: Tensor, y: Tensor, weight: Any) -> None:
        self.trainer, self.loss, self.batch = trainer, loss, (x, y, weight)
        self.called = False

    def __call__(self) -> Tensor:
        """The loss; every parameter's `grad` is that of the weights as they are."""
        if not self.called:
            self.called = True
            return self.loss
        x, y, weight = self.batch
        self.trainer.optimizer.zero_grad(set_to_none=True)
        loss = self.trainer.total_loss(*self.trainer.run(x, y, None), weight)
        self.trainer.processes.weighted(loss).backward()
        return loss


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
