"""The record of a run: the numbers of every epoch."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from typing_extensions import override

from pyconvopt.training.callbacks import Callback, Logs


class History(Callback):
    """What `fit` returns: `history` maps 'loss', 'accuracy', 'val_loss' ... to one value an epoch.

    Also `epoch` (the epochs' numbers), `seconds` (how long each took, validation included) and
    `params` (epochs, steps, samples, batch_size).
    """

    def __init__(self) -> None:
        self.history: dict[str, list[float]] = {}
        self.epoch: list[int] = []
        self.seconds: list[float] = []
        self.params: dict[str, Any] = {}

    @override
    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.started = time.perf_counter()

    @override
    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.seconds.append(time.perf_counter() - self.started)
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(float(value))

    def to_json(self, path: str | Path | None = None) -> str:
        """The record as JSON text, also written to `path` if one is given.

        >>> History().to_json()
        '{"epoch": [], "seconds": [], "history": {}, "params": {}}'
        """
        text = json.dumps(
            {
                "epoch": self.epoch,
                "seconds": self.seconds,
                "history": self.history,
                "params": self.params,
            },
            indent=None if path is None else 2,
        )
        if path is not None:
            beside = Path(f"{path}.part")
            beside.write_text(text + "\n")
            os.replace(beside, path)
        return text
