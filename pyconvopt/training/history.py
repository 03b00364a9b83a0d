"""The record of a run: the numbers of every epoch."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from typing_extensions import override

from pyconvopt.files import write_whole
from pyconvopt.json_text import to_json
from pyconvopt.training.callbacks import Callback, Logs


class History(Callback):
    """What `fit` returns: `history` maps 'loss', 'accuracy', 'val_loss' ... to one value an epoch.

    'learning_rate' is among them where a schedule or a callback sets the rate.

    Also `epoch` (the epochs' numbers), `validated` (those with a validation), `seconds` (how long
    each took, validation included) and `params` (epochs, steps, samples, batch_size).
    """

    def __init__(self) -> None:
        self.history: dict[str, list[float]] = {}
        self.epoch: list[int] = []
        self.validated: list[int] = []
        self.seconds: list[float] = []
        self.params: dict[str, Any] = {}

    @override
    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.started = time.perf_counter()

    @override
    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.seconds.append(time.perf_counter() - self.started)
        self.epoch.append(epoch)
        if any(name.startswith("val_") for name in logs or {}):
            self.validated.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(float(value))

    def epochs_of(self, name: str) -> list[int]:
        """The epochs to which the values of a number belong; ValueError if none are as many."""
        values = len(self.history[name])
        for epochs in (self.epoch, self.validated):
            if len(epochs) == values:
                return epochs
        raise ValueError(f"{name} has {values} values for {len(self.epoch)} epochs")

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "history": self.history,
            "epoch": self.epoch,
            "validated": self.validated,
            "seconds": self.seconds,
            "elapsed": time.perf_counter() - self.started,
        }

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history, self.epoch, self.seconds = state["history"], state["epoch"], state["seconds"]
        self.validated = state["validated"]
        self.started = time.perf_counter() - state["elapsed"]

    def to_json(self, path: str | Path | None = None) -> str:
        """The record as JSON text, also written to `path` if one is given; NaN and infinity as null.

        >>> History().to_json()
        '{"epoch": [], "validated": [], "seconds": [], "history": {}, "params": {}}'
        """
        text = to_json(
            {
                "epoch": self.epoch,
                "validated": self.validated,
                "seconds": self.seconds,
                "history": self.history,
                "params": self.params,
            },
            indent=None if path is None else 2,
        )
        if path is not None:
            write_whole(path, text + "\n")
        return text

    @classmethod
    def from_json(cls, path: str | Path) -> History:
        """The record that `to_json` wrote to a file; null comes back as NaN.

        Errors: OSError if it cannot be read, ValueError for another file.
        """
        history = cls()
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            for name in vars(history):
                setattr(history, name, found[name])
            for values in history.history.values():
                values[:] = [math.nan if value is None else value for value in values]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} holds no history of a run: {error!r}") from None
        return history
