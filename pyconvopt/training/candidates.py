"""The candidates of a sweep: which there are, which train how long, which go on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyconvopt.training.arguments import validation_epochs
from pyconvopt.training.monitors import Monitor
from pyconvopt.training.pause import Pause
from pyconvopt.training.trainer import Trainer


@dataclass
class Candidate:
    """Settings, how long they trained, and the score they came to (None: they failed).

    `until` is the epoch they were to train until, `epochs` are those they did: a callback may stop them.
    """

    settings: dict[str, Any]
    until: int = 0
    epochs: int = 0
    score: float | None = None
    failure: str | None = None
    trainer: Trainer | None = field(default=None, repr=False)
    data: Any = field(default=None, repr=False)
    pause: Pause = field(default_factory=Pause, repr=False)


def grid(space: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the values.

    >>> grid({'rate': [0.1, 0.01], 'batch': [32]})
    [{'rate': 0.1, 'batch': 32}, {'rate': 0.01, 'batch': 32}]
    """
    for name, values in space.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ValueError(
                f"the values of {name} must be a list with at least one (a range needs the "
                f"sampler 'optuna'), got {values!r}"
            )
    if not space:
        raise ValueError("there is nothing to sweep: give {name: [values]}")
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]


def rungs(candidates: int, epochs: int, factor: int = 3) -> list[tuple[int, int]]:
    """How many candidates train until which epoch, rung by rung.

    >>> rungs(9, 9), rungs(4, 5), rungs(27, 4)
    ([(9, 1), (3, 3), (1, 9)], [(4, 2), (2, 5)], [(27, 1), (9, 4)])
    """
    count = 0
    while factor ** (count + 1) <= min(candidates, epochs):
        count += 1
    plan = []
    for rung in range(count + 1):
        plan.append((candidates, max(1, round(epochs / factor ** (count - rung)))))
        candidates = math.ceil(candidates / factor)
    return plan


def to_validations(
    plan: list[tuple[int, int]], frequency: int | Sequence[int]
) -> list[tuple[int, int]]:
    """The rungs, each moved on to the next epoch that is validated, if the last does not come before.

    >>> to_validations([(9, 1), (3, 3), (1, 9)], 2), to_validations([(9, 1), (3, 3), (1, 9)], 4)
    ([(9, 2), (3, 4), (1, 9)], [(9, 4), (1, 9)])
    """
    validates, last = validation_epochs(frequency), plan[-1][1]
    moved: dict[int, int] = {}
    for count, until in plan:
        ends = (epoch + 1 for epoch in range(until - 1, last) if validates(epoch))
        moved.setdefault(next(ends, last), count)
    return [(count, until) for until, count in moved.items()]


def best_of(candidates: list[Candidate], monitor: str, count: int) -> list[Candidate]:
    """The best so many of those that did not fail; all in order before anything was trained."""
    whole = [each for each in candidates if each.failure is None]
    if all(each.score is not None for each in whole):
        sign = Monitor(monitor, "auto").sign
        whole = sorted(whole, key=lambda each: -sign * (each.score or 0.0))
    return whole[:count]
