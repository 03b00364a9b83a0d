"""Schedules by name: the table, and what looks things up in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import numpy as np

from pyconvopt import registry
from pyconvopt.schedules.base import Schedule
from pyconvopt.schedules.compose import OverRun, PerEpoch, Then, Warmup
from pyconvopt.schedules.decay import (
    Constant,
    Exponential,
    InverseTime,
    MultiStep,
    Redwood,
    Step,
)
from pyconvopt.schedules.phases import WSD, Cosine, CosineRestarts, OneCycle, Polynomial

TABLE: dict[str, type[Schedule]] = {
    "constant": Constant,
    "exponential": Exponential,
    "redwood": Redwood,
    "inverse_time": InverseTime,
    "step": Step,
    "multi_step": MultiStep,
    "polynomial": Polynomial,
    "cosine": Cosine,
    "cosine_restarts": CosineRestarts,
    "one_cycle": OneCycle,
    "wsd": WSD,
    "warmup": Warmup,
    "then": Then,
    "per_epoch": PerEpoch,
    "over_run": OverRun,
    # Keras' names, with the settings of the classes here.
    "exponential_decay": Exponential,
    "inverse_time_decay": InverseTime,
    "polynomial_decay": Polynomial,
    "cosine_decay": Cosine,
    "cosine_decay_restarts": CosineRestarts,
}


def get(spec: Any, **settings: Any) -> Any:
    """A schedule from a name and its settings, a number, what `describe` returned, or itself.

    Any function of the step counts as a schedule and is returned as it is; None stays None.

    Errors: ValueError for an unknown name, or for settings the schedule does not take or lacks;
    TypeError for something that is no schedule.

    >>> get('cosine', lr=0.1, n=100)
    Cosine(lr=0.1, n=100, end=0.0)
    >>> get(0.1)
    Constant(lr=0.1)
    """
    if isinstance(spec, str):
        spec = {"name": spec, "config": settings}
    elif settings:
        raise ValueError(f"settings ({', '.join(settings)}) beside {spec!r}: they go with a name")
    if spec is None:
        return None
    if isinstance(spec, Real) and not isinstance(spec, bool):
        return Constant(float(spec))
    if isinstance(spec, Mapping):
        config = {
            name: get(value) if isinstance(value, Mapping) else value
            for name, value in spec.get("config", {}).items()
        }
        spec = {**spec, "config": config}
    return registry.make("schedule", TABLE, spec)


def describe(schedule: Any) -> dict[str, Any] | None:
    """Name and settings for a saved model or a recipe; `get` reads them back.

    Errors: ValueError for a function of your own: no file could bring it back.

    >>> describe(Constant(0.1).warmup(5))['config']['schedule']
    {'name': 'constant', 'config': {'lr': 0.1}}
    """
    if schedule is None:
        return None
    described = registry.describe("schedule", TABLE, schedule)
    config = {name: plain(value) for name, value in described["config"].items()}
    parts = {name: describe(part) for name, part in schedule.parts().items()}
    return {**described, "config": {**config, **parts}}


def plain(value: Any) -> Any:
    """A setting without NumPy's kinds of numbers, which JSON has not."""
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    return value.item() if isinstance(value, np.generic) else value


def for_run(
    schedule: Any, steps_per_epoch: int | None, epochs: int, done: int = 0
) -> Callable[[float], float] | None:
    """The schedule in steps for a run of so many epochs after `done` steps.

    A function of your own is returned as it is.

    Errors: ValueError if the schedule ends before the run.

    >>> for_run(Cosine(0.1, 1).over_run(), steps_per_epoch=100, epochs=5)
    Cosine(lr=0.1, n=500, end=0.0)
    """
    if not isinstance(schedule, Schedule):
        return schedule
    return schedule.resolve(*run_length(steps_per_epoch, epochs, done))


def run_length(
    steps_per_epoch: int | None, epochs: int, done: int = 0
) -> tuple[int | None, int | None]:
    """The steps of an epoch and of the run, `done` ones before it included; None: unknown.

    >>> run_length(100, epochs=5, done=7)
    (100, 507)
    """
    if not steps_per_epoch:
        return steps_per_epoch, None
    return steps_per_epoch, done + epochs * steps_per_epoch
