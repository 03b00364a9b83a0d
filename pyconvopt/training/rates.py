"""The learning rate, set in one place: for all groups of parameters, in the ratios they began with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def set_rate(optimizer: Any, rate: Any, source: str) -> None:
    """Give the first group that rate, the others theirs in the same ratio to it as at the start.

    The rates they began with are kept as 'initial_lr', as torch's schedulers keep them. `source`
    says in an error where the rate came from.

    Errors: ValueError for a rate below 0, NaN or infinity.

    >>> import torch
    >>> groups = [{"params": [torch.ones(1)], "lr": rate} for rate in (0.1, 0.01)]
    >>> optimizer = torch.optim.SGD(groups)
    >>> set_rate(optimizer, 0.5, "the schedule")
    >>> [round(group["lr"], 6) for group in optimizer.param_groups]
    [0.5, 0.05]
    """
    rate = float(rate)
    if not 0 <= rate < math.inf:
        raise ValueError(f"{source} gives {rate}: a learning rate is a number of 0 or more")
    first = None
    for group in optimizer.param_groups:
        initial = float(group.setdefault("initial_lr", group["lr"]))
        first = initial if first is None else first
        group["lr"] = rate * (initial / first) if first else rate


def note_rate(trainer: Any, logs: Mapping[str, float] | None) -> None:
    """Write the learning rate into an epoch's logs, as Keras does."""
    if isinstance(logs, dict):
        logs["learning_rate"] = trainer.rate
