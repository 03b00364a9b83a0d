"""A schedule elsewhere: as a torch scheduler, and as a picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override

from pyconvopt.schedules.base import Schedule
from pyconvopt.schedules.compose import OverRun, PerEpoch

POINTS = 1000  # of a picture: more than it has pixels across


class ScheduleLR(LRScheduler):
    """A torch scheduler whose rate at its step t is schedule(t), for composed schedules too.

    The rate depends on `last_epoch` alone, so a loaded `state_dict` says everything. The first
    group gets schedule(t), the others that times the ratio their rates began with.

    >>> import torch
    >>> from pyconvopt import schedules
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5)
    >>> scheduler = schedules.Cosine(1.0, 10).warmup(2).to_torch(optimizer)
    >>> optimizer.step(), scheduler.step(), round(optimizer.param_groups[0]["lr"], 3)
    (None, None, 0.452)
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule, last_epoch: int = -1) -> None:
        self.schedule = schedule
        super().__init__(optimizer, last_epoch)

    @override
    def get_lr(self) -> list[float | Tensor]:
        rate, first = self.schedule(self.last_epoch), self.base_lrs[0]
        return [rate * float(base / first) if first else rate for base in self.base_lrs]

    @override
    def state_dict(self) -> dict[str, Any]:
        # Without the schedule: the state then holds numbers only, which any loader takes.
        return {name: value for name, value in super().state_dict().items() if name != "schedule"}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


def plot(schedule: Schedule, n: int | None = None, steps_per_epoch: int | None = None) -> Any:
    """The Figure that `Schedule.plot` returns."""
    curve, n, unit = in_a_unit(schedule, n, steps_per_epoch)
    if n is None:
        if math.isinf(curve.length):
            raise ValueError(f"this schedule has no end: say how many {unit}s to draw, plot(n)")
        n = math.ceil(curve.length)
    return drawn(curve, n, unit)


def drawn(curve: Callable[[float], float], n: int, unit: str) -> Any:
    """A Figure of the rates from 0 to n of that unit."""
    from pyconvopt.pictures.drawing import BLUE, new_figure, plain

    finely = unit != "step" or n > POINTS
    places = [t * n / POINTS for t in range(POINTS + 1)] if finely else list(range(n + 1))
    figure = new_figure(5, 3.2, "drawing a schedule")
    axes = figure.subplots()
    axes.plot(places, [curve(t) for t in places], color=BLUE)
    axes.margins(x=0.02)
    axes.set_xlabel(unit)
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    plain(axes)
    return figure


def in_a_unit(
    schedule: Schedule, n: int | None, steps_per_epoch: int | None
) -> tuple[Schedule, int | None, str]:
    """The schedule as a curve over steps, epochs or shares of a run; how far, and which of them."""
    if isinstance(schedule, OverRun) and n is None:
        return schedule.schedule, 1, "share of the run"
    if isinstance(schedule, PerEpoch) and schedule.steps is None and steps_per_epoch is None:
        return schedule.in_steps(1, None), n, "epoch"
    try:
        return schedule.in_steps(steps_per_epoch, n), n, "step"
    except ValueError:
        raise ValueError(
            "this schedule counts epochs or shares of a run among its steps: say how many steps "
            "those have, plot(n, steps_per_epoch)"
        ) from None
