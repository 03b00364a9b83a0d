"""Learning rates as pure functions of the step: `schedule(t) -> lr`.

>>> schedule = Cosine(0.1, n=90).warmup(5).per_epoch()   # lengths in epochs
>>> schedule = Cosine(0.1, n=1).warmup(0.05).over_run()  # lengths as shares of the run
>>> schedule = Constant(0.1).then(Cosine(0.1, 500), at=1000)  # lengths in steps

`Trainer(schedule=...)` takes any of them; `.to_torch(optimizer)` makes a torch scheduler, for loops
of your own; `.plot()` draws it. They are frozen dataclasses: equal if their settings are, safe to
pickle, described and brought back by `describe` and `get`. `base` says what they have in common,
`decay` and `phases` hold the formulas, `compose` the combinations, `table` the names.
"""

from pyconvopt.schedules.adapters import ScheduleLR
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
from pyconvopt.schedules.table import TABLE, describe, for_run, get, run_length

__all__ = [
    "TABLE",
    "WSD",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Exponential",
    "InverseTime",
    "MultiStep",
    "OneCycle",
    "OverRun",
    "PerEpoch",
    "Polynomial",
    "Redwood",
    "Schedule",
    "ScheduleLR",
    "Step",
    "Then",
    "Warmup",
    "describe",
    "for_run",
    "get",
    "run_length",
]
