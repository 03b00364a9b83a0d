"""What every schedule is: a pure function of the step, and what can be made of it.

A schedule is a frozen dataclass: calling it with a step gives that step's learning rate and
changes nothing, so a run can be taken up anywhere. Its lengths (`n`, `at`, `milestones`) are
counted in steps, until `per_epoch()` or `over_run()` says otherwise; those two learn how many
steps that is from `resolve`, which the Trainer calls when it knows the run.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from pyconvopt.schedules import compose

Self = TypeVar("Self", bound="Schedule")


class Schedule:
    """Base class: a learning rate for every step, `schedule(t) -> lr`."""

    lengths: ClassVar[tuple[str, ...]] = ()  # the fields that are counted in steps

    def __call__(self, t: float) -> float:
        """The learning rate of step t, the first is 0."""
        raise NotImplementedError

    @property
    def length(self) -> float:
        """The steps after which the rate stays what it is; infinite for one that goes on."""
        return math.inf

    # --- composition

    def warmup(self, n: float, start: float = 0.0, shape: str = "linear") -> compose.Warmup:
        """The same with its first `n` steps replaced by a rise from `start` · the rate of step n.

        >>> from pyconvopt import schedules
        >>> [schedules.Constant(0.4).warmup(4)(t) for t in (0, 1, 2, 4)]
        [0.0, 0.1, 0.2, 0.4]
        """
        from pyconvopt.schedules.compose import Warmup

        return Warmup(self, n, start, shape)

    def then(self, other: Any, at: float) -> compose.Then:
        """This schedule before step `at`, from there on `other`, which begins with its step 0.

        >>> from pyconvopt import schedules
        >>> [schedules.Constant(1.0).then(schedules.Cosine(0.5, 10), at=3)(t) for t in (2, 3)]
        [1.0, 0.5]
        """
        from pyconvopt.schedules import compose, table

        return compose.Then(self, table.get(other), at)

    # --- units

    def per_epoch(self, staircase: bool = False) -> compose.PerEpoch:
        """The same with every length counted in epochs; `staircase`: one rate an epoch.

        >>> from pyconvopt import schedules
        >>> schedule = schedules.MultiStep(0.1, (30, 60)).per_epoch()
        >>> schedule.resolve(steps_per_epoch=100, total_steps=9000).milestones
        (3000, 6000)
        """
        from pyconvopt.schedules.compose import PerEpoch

        return PerEpoch(self, staircase)

    def over_run(self) -> compose.OverRun:
        """The same with every length a share of the run, 0 to 1.

        >>> from pyconvopt import schedules
        >>> schedule = schedules.Cosine(0.1, 1).warmup(0.05).over_run()
        >>> schedule.resolve(steps_per_epoch=100, total_steps=1000)
        Warmup(schedule=Cosine(lr=0.1, n=1000, end=0.0), n=50.0, start=0.0, shape='linear')
        """
        from pyconvopt.schedules.compose import OverRun

        return OverRun(self)

    def resolve(
        self, steps_per_epoch: int | None = None, total_steps: int | None = None
    ) -> Schedule:
        """The same schedule counted in steps, now that the length of the run is known.

        Errors: ValueError if it ends before the run, or needs a number that is None.
        """
        resolved = self.in_steps(steps_per_epoch, total_steps)
        # Half a step of room: a length that was a share need not be a whole number.
        if total_steps is not None and resolved.length + 0.5 < total_steps:
            last, rate = resolved.length, resolved(resolved.length)
            raise ValueError(
                f"the schedule ends after {last:g} steps, but the run has {total_steps}: make it "
                "longer (n=), count it in shares of the run (.over_run()), or say what follows, "
                f"such as .then(Constant({rate:g}), at=...)"
            )
        return resolved

    def in_steps(self, steps_per_epoch: int | None, total_steps: int | None) -> Schedule:
        """This schedule with the units of every part of it resolved."""
        parts = {
            name: part.in_steps(steps_per_epoch, total_steps) for name, part in self.parts().items()
        }
        return self.replaced(parts) if parts else self

    def stretched(self: Self, factor: float) -> Self:
        """The same curve over `factor` times as many steps."""
        changed: dict[str, Any] = {
            name: part.stretched(factor) for name, part in self.parts().items()
        }
        for name in self.lengths:
            value = getattr(self, name)
            # Rounded, so that a jump at 0.3 of 1000 steps comes at 300 and not at 299.99999.
            if isinstance(value, tuple):
                changed[name] = tuple(round(each * factor, 6) for each in value)
            else:
                changed[name] = round(value * factor, 6)
        return self.replaced(changed)

    def replaced(self: Self, changes: dict[str, Any]) -> Self:
        """A copy with other values in some fields."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def parts(self) -> dict[str, Schedule]:
        """The schedules this one is made of, by field."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Schedule)}

    def all_lengths(self) -> Iterator[tuple[str, float]]:
        """Every length in it and in its parts, with the field's name."""
        for name in self.lengths:
            value = getattr(self, name)
            yield from ((name, each) for each in (value if isinstance(value, tuple) else (value,)))
        for part in self.parts().values():
            yield from part.all_lengths()

    def has_unit(self) -> bool:
        """Whether `per_epoch` or `over_run` is somewhere in it."""
        return any(part.has_unit() for part in self.parts().values())

    # --- elsewhere

    def plot(self, n: int | None = None, steps_per_epoch: int | None = None) -> Any:
        """A matplotlib Figure of the rate over the first `n` steps (default: to its end).

        A schedule `over_run()` is drawn over a run of `n` steps, or without it over shares of a
        run; one `per_epoch()` in steps where `steps_per_epoch` is given, else over `n` epochs.

        Errors: ValueError without `n` for a schedule that has no end, or if one with several
        units needs a number that is None; ImportError naming the extra if matplotlib is missing.
        """
        from pyconvopt.schedules.adapters import plot

        return plot(self, n, steps_per_epoch)

    def to_torch(self, optimizer: Optimizer) -> LRScheduler:
        """A torch LRScheduler with this schedule's rates, counted by its `step()`.

        Groups of unlike rates keep their ratio to the first one's. A scheduler that loads a
        `state_dict` sets the right rates at once.
        """
        from pyconvopt.schedules.adapters import ScheduleLR

        return ScheduleLR(optimizer, self)


def require_rate(value: float, name: str) -> None:
    """Refuse a negative rate, NaN and infinity."""
    if not 0 <= value < math.inf:
        raise ValueError(f"the rate {name} must be a number of 0 or more, got {value}")


def require_positive(value: float, name: str) -> None:
    """Refuse a length or factor that is not above 0."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a number above 0, got {value}")


def require_share(value: float, name: str) -> None:
    """Refuse what is no share."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a share and must lie between 0 and 1, got {value}")
