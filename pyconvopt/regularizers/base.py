"""What penalties share: strengths that may follow the step, and filters as rows of a matrix."""

from __future__ import annotations

import dataclasses
from numbers import Real
from typing import Any, TypeVar

from torch import Tensor, nn

from pyconvopt.attaching import require_floating
from pyconvopt.schedules.base import Schedule

Self = TypeVar("Self", bound="Penalty")

# A number, or a function of the step (counted from 0) that gives one, such as a schedule.
Strength = Any


def checked(strength: Strength, name: str) -> None:
    """Refuse a negative strength, and NaN; a function's values are checked as they come."""
    is_number = isinstance(strength, (Real, Tensor))
    if not callable(strength) and not (is_number and strength >= 0):
        raise ValueError(f"the strength {name} must be 0 or more, got {strength!r}")


class Penalty:
    """Base class of the penalties, frozen dataclasses whose fields are their settings.

    Calling one gives the penalty of a weight, a scalar; `step` counts where a strength is a
    function. A subclass gives `value`, in which every strength is a number.
    """

    def __post_init__(self) -> None:
        for name, strength in vars(self).items():
            checked(strength, name)

    def __call__(self, weight: Tensor, step: int = 0) -> Tensor:
        """The penalty of a weight at that step of the run, a scalar tensor.

        Errors: TypeError for a weight of whole numbers.
        """
        require_floating(weight, f"what {type(self).__name__} penalises")
        return self.at(step).value(weight)

    def at(self: Self, step: int) -> Self:
        """The same penalty with the strengths it has at that step."""
        numbers = {name: each(step) for name, each in vars(self).items() if callable(each)}
        if not numbers:
            return self
        return dataclasses.replace(self, **numbers)  # type: ignore[type-var]

    def in_steps(self: Self, steps_per_epoch: int | None, total_steps: int | None) -> Self:
        """The same penalty, schedules that count epochs or shares of the run counted in steps.

        A strength may end before the run: its last value then holds.

        Errors: ValueError if a schedule needs a number that is None.
        """
        counted = {
            name: each.in_steps(steps_per_epoch, total_steps)
            for name, each in vars(self).items()
            if isinstance(each, Schedule)
        }
        return dataclasses.replace(self, **counted) if counted else self  # type: ignore[type-var]

    def value(self, weight: Tensor) -> Tensor:
        """The penalty of a weight, its strengths being numbers."""
        raise NotImplementedError


def rows(weight: Tensor, method: str) -> Tensor:
    """A kernel as (filters, everything one filter has): (K, C·kh·kw) of a convolution.

    Errors: ValueError for a vector, which has no filters.
    """
    if weight.dim() < 2:
        raise ValueError(
            f"{method} works on kernels of two or more axes, got a weight of shape "
            f"{tuple(weight.shape)}"
        )
    return weight.flatten(1)


def filters_first(module: nn.Module, weight: Tensor) -> Tensor:
    """A kernel as (filters, everything one filter has ...): of a transposed convolution, turned.

    That one's lies as (channels, filters / groups, kh, kw).

    >>> module = nn.ConvTranspose2d(8, 6, 3, groups=2)
    >>> filters_first(module, module.weight).shape
    torch.Size([6, 4, 3, 3])
    """
    view, count = filters_view(module, weight)
    return view if count == 1 else view.flatten(0, 1)


def filters_view(module: nn.Module, weight: Tensor) -> tuple[Tensor, int]:
    """A view of a kernel whose first axes number its filters, and how many axes these are."""
    if not getattr(module, "transposed", False) or weight.dim() < 3:
        return weight, 1
    groups: Any = getattr(module, "groups", 1)
    return weight.unflatten(0, (groups, -1)).transpose(1, 2), 2
