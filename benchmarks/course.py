"""The course of one training run: test accuracy after each epoch against the seconds spent so far.

The clock begins before the data are read and the model is built, with the library already imported. It
stands still while the test images are looked at, which no training needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.peers import Workload


class Course:
    """What a library's own loop reports to: `epoch_ends` after every epoch; it stops when told so."""

    def __init__(self, target: float) -> None:
        self.target = target
        self.points: list[tuple[float, float]] = []
        self.tested = 0.0
        self.begin = time.perf_counter()

    def epoch_ends(self, accuracy: Callable[[], float]) -> bool:
        """Note the seconds so far and the accuracy; whether the target is reached."""
        now = time.perf_counter()
        value = float(accuracy())
        self.points.append((now - self.begin - self.tested, value))
        self.tested += time.perf_counter() - now
        return value >= self.target


def workload(train: Callable[[Course], None], target: float, version: str) -> Workload:
    """A run as a worker's work: `train` is done once, and `check` gives its course."""
    done: list[Course] = []

    def run() -> None:
        done.append(Course(target))
        train(done[-1])

    return Workload(run, lambda: done[-1].points, 0, version)
