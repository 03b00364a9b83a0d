"""A run in parts: stopped after an epoch, gone on with later, to the bits of one that was not stopped.

`fit` is called for all epochs each time, so that schedules see the whole run; what it leaves when it
is stopped is put back by the next call. What is kept is a checkpoint's, in memory.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, ClassVar

from typing_extensions import override

from pyconvopt.training import state
from pyconvopt.training.callbacks import Callback, Logs


class Pause(Callback):
    """Stops a run after epoch `until`, counted from 1; the next `fit` of the same trainer goes on.

    >>> import torch
    >>> from pyconvopt.training import Trainer
    >>> data, pause = (torch.randn(8, 2), torch.zeros(8).long()), Pause()
    >>> trainer = Trainer(torch.nn.Linear(2, 2), callbacks=[pause])
    >>> for until in (1, 3):
    ...     print(len(pause.fit(trainer, until, data, epochs=3, verbose=0).epoch))
    1
    3
    """

    runs_last: ClassVar[bool] = True
    only_shows: ClassVar[bool] = True

    def __init__(self) -> None:
        self.until = 0
        self.state: dict[str, Any] | None = None

    def fit(self, trainer: Any, until: int, data: Any, **options: Any) -> Any:
        """Train until that epoch of a run whose length and options are those of every call."""
        self.until = until
        return trainer.fit(data, **options)

    @override
    def on_train_begin(self, logs: Logs | None = None) -> None:
        if self.state is not None:
            self.trainer.position = state.restore(self.trainer, self.state)

    @override
    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        stops = epoch + 1 >= self.until or self.model.stop_training
        if stops and epoch + 1 < self.params["epochs"]:
            self.state = deepcopy(state.capture(self.trainer, epoch + 1, 0))
            self.model.stop_training = True
