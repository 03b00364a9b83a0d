"""Averages of weights: `Trainer(..., callbacks=[averaging.EMA(decay=0.999)])`.

An average is a callback. It puts its weights into the model for validation and at the end of the
run, and computes the batch-norm statistics that belong to them by itself, from the last training
batches. In a loop of your own: `attach(model)`, `update()` after each step, and
`with average.applied():` to evaluate.
"""

from pyconvopt.averaging.averages import EMA, SWA
from pyconvopt.averaging.base import Averaging
from pyconvopt.averaging.schedule_free import ScheduleFree
from pyconvopt.averaging.statistics import recompute_statistics

__all__ = ["EMA", "SWA", "Averaging", "ScheduleFree", "recompute_statistics"]
