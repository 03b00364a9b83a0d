"""The average that a Schedule-Free optimiser keeps itself, put in where it belongs."""

from __future__ import annotations

from typing import Any

from torch import nn
from typing_extensions import override

from pyconvopt.averaging.base import Averaging
from pyconvopt.training.callbacks import Logs


class ScheduleFree(Averaging):
    """Evaluates a Schedule-Free optimiser at its average x; training is at y = (1 − β)z + βx.

    Without this callback validation, and the model at the end, would have y.

    Args: in_validation, at_end, batches (see `Averaging`); optimizer, for a loop of your own.

    Errors: TypeError in a run whose optimiser has no such average.

    Source: Defazio et al. 2024, "The road less scheduled", arXiv:2405.15682.
    """

    def __init__(
        self,
        in_validation: bool = True,
        at_end: bool = True,
        batches: int = 32,
        optimizer: Any = None,
    ) -> None:
        super().__init__(in_validation, at_end, batches)
        self.optimizer = optimizer

    @override
    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.optimizer = self.trainer.optimizer
        super().on_train_begin(logs)
        self.optimizer.train()

    @override
    def attach(self, model: nn.Module) -> None:
        if not (hasattr(self.optimizer, "train") and hasattr(self.optimizer, "eval")):
            raise TypeError(
                "ScheduleFree needs an optimizer that keeps an average, such as "
                f"'schedule_free_adamw', got {type(self.optimizer).__name__}"
            )
        super().attach(model)

    @override
    def ready(self) -> bool:
        return bool(self.optimizer is not None and self.optimizer.state)

    @override
    def put_in(self) -> None:
        self.optimizer.eval()

    @override
    def take_out(self) -> None:
        self.optimizer.train()  # the weights it works out are then replaced by the very ones
