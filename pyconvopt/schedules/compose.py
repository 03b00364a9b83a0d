"""Schedules made of schedules: a warm-up, one after another, lengths in epochs or shares.

All are frozen dataclasses like the simple ones; `Schedule`'s methods make them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from pyconvopt import registry
from pyconvopt.schedules.base import Schedule, require_positive, require_share
from pyconvopt.schedules.phases import half_cosine, straight

RISES = {"linear": straight, "cosine": half_cosine}


@dataclass(frozen=True)
class Warmup(Schedule):
    """A rise from start · schedule(n) to schedule(n) for t < n, then schedule(t).

    The warm-up takes the place of the first n steps, so what follows (milestones, the end) stays
    where it is in time. To put one before a schedule instead, write
    `Polynomial(0.0, n, end=lr).then(schedule, at=n)`.

    Args: schedule, n, start (0: a share of the rate it rises to), shape ('linear', 'cosine').

    Source: Goyal et al. 2017, "Accurate, large minibatch SGD", arXiv:1706.02677.
    """

    schedule: Schedule
    n: float
    start: float = 0.0
    shape: str = "linear"
    lengths: ClassVar = ("n",)

    def __post_init__(self) -> None:
        require_part(self.schedule)
        require_positive(self.n, "the warm-up's n")
        require_share(self.start, "the warm-up's start")
        registry.find("shape", RISES, self.shape)

    @override
    def __call__(self, t: float) -> float:
        if t >= self.n:
            return self.schedule(t)
        rise = registry.find("shape", RISES, self.shape)
        return self.schedule(self.n) * rise(self.start, 1.0, t / self.n)

    @property
    @override
    def length(self) -> float:
        return max(self.schedule.length, self.n)


@dataclass(frozen=True)
class Then(Schedule):
    """first(t) for t < at, from there on second(t − at): torch's SequentialLR of two."""

    first: Schedule
    second: Schedule
    at: float
    lengths: ClassVar = ("at",)

    def __post_init__(self) -> None:
        require_part(self.first)
        require_part(self.second)
        require_positive(self.at, "at")

    @override
    def __call__(self, t: float) -> float:
        return self.first(t) if t < self.at else self.second(t - self.at)

    @property
    @override
    def length(self) -> float:
        return self.at + self.second.length


@dataclass(frozen=True)
class PerEpoch(Schedule):
    """A schedule whose lengths are epochs: its step is t / (steps an epoch).

    With `staircase` its step is the number of the epoch, ⌊t / steps⌋, so the rate changes between
    epochs only, as with a torch scheduler stepped once an epoch.

    Errors: RuntimeError when it is called before `resolve`; ValueError for a unit inside a unit,
    and for a staircase that begins at rate 0: the whole first epoch would train nothing.
    """

    schedule: Schedule
    staircase: bool = False
    steps: int | None = None

    def __post_init__(self) -> None:
        require_no_unit(self.schedule, "per_epoch()")
        if self.staircase and self.schedule(0) == 0:
            raise ValueError(
                "the rate of the whole first epoch would be 0: give the warm-up a start above 0, "
                "or leave staircase out"
            )

    @override
    def __call__(self, t: float) -> float:
        if self.steps is None:
            raise unresolved("epochs")
        return self.schedule(math.floor(t / self.steps))

    @property
    @override
    def length(self) -> float:
        return math.inf if self.steps is None else self.schedule.length * self.steps

    @override
    def has_unit(self) -> bool:
        return True

    @override
    def in_steps(self, steps_per_epoch: int | None, total_steps: int | None) -> Schedule:
        if self.steps is not None:
            return self
        if steps_per_epoch is None:
            raise ValueError(
                "a schedule in epochs needs the number of batches an epoch, which these data do "
                "not tell: count it in steps"
            )
        if self.staircase:
            return PerEpoch(self.schedule, True, steps_per_epoch)
        return self.schedule.stretched(steps_per_epoch)


@dataclass(frozen=True)
class OverRun(Schedule):
    """A schedule whose lengths are shares of the run, 0 to 1.

    Errors: RuntimeError when it is called before `resolve`; ValueError for a length that is no
    share, or a unit inside a unit.
    """

    schedule: Schedule

    def __post_init__(self) -> None:
        require_no_unit(self.schedule, "over_run()")
        for name, value in self.schedule.all_lengths():
            require_share(value, f"under over_run() {name}")

    @override
    def __call__(self, t: float) -> float:
        raise unresolved("shares of the run")

    @override
    def has_unit(self) -> bool:
        return True

    @override
    def in_steps(self, steps_per_epoch: int | None, total_steps: int | None) -> Schedule:
        if total_steps is None:
            raise ValueError(
                "a schedule over the run needs the number of its steps, which these data do not "
                "tell: count it in steps"
            )
        return self.schedule.stretched(total_steps)


def unresolved(unit: str) -> RuntimeError:
    """The error for a step asked of a schedule that counts in something else."""
    return RuntimeError(
        f"this schedule counts {unit}: schedule.resolve(steps_per_epoch, total_steps) makes it one "
        "of steps (the Trainer does)"
    )


def require_part(schedule: object) -> None:
    """Refuse to compose what is no schedule: a bare function has no lengths."""
    if not isinstance(schedule, Schedule):
        raise TypeError(f"schedules are composed of schedules, got {schedule!r}")


def require_no_unit(schedule: Schedule, unit: str) -> None:
    """Refuse a unit inside a unit."""
    require_part(schedule)
    if schedule.has_unit():
        raise ValueError(f"{unit} on a schedule that has its unit already: {schedule}")
