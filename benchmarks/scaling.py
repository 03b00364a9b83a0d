"""Time against batch, channels, image size and threads: does a small change cost much?

From each base one number is changed at a time. A cliff is a step to a larger problem, or to more
threads, that loses more than a third of the rate: time then grows by more than half beyond the work.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from benchmarks.problems import Problem

KEPT_RATE = 2 / 3  # less than this share of the rate before is a cliff


def base(kernel: int, groups: int) -> Problem:
    size = {"kernel_height": kernel, "kernel_width": kernel}
    padding = {"padding_height": kernel // 2, "padding_width": kernel // 2}
    sizes = {"channels": 64, "height": 56, "width": 56, "out_channels": 64}
    return Problem("convolution", ("scaling",), 8, groups=groups, **sizes, **size, **padding)


BASES = {"3×3": base(3, 1), "1×1": base(1, 1), "depthwise 3×3": base(3, 64)}
AXES: dict[str, Sequence[int]] = {
    "batch": (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64),
    "channels": (16, 24, 32, 48, 60, 64, 65, 96, 100, 128, 192, 256),
    "image size": (7, 8, 13, 14, 15, 16, 28, 31, 32, 33, 56, 63, 64, 112),
}


class Step(NamedTuple):
    """A layer to be measured with so many threads, and what the report is to say of it."""

    problem: Problem
    threads: int
    facts: dict[str, Any]


def changed(problem: Problem, axis: str, value: int) -> Problem:
    if axis == "batch":
        return replace(problem, batch=value)
    if axis == "image size":
        return replace(problem, height=value, width=value)
    groups = value if problem.groups > 1 else 1
    return replace(problem, channels=value, out_channels=value, groups=groups)


def steps(threads: int) -> Iterator[Step]:
    """Every value of every axis of every base; then the bases with 1 … `threads` threads."""
    for name, problem in BASES.items():
        for axis, values in AXES.items():
            for value in values:
                facts = {"base": name, "axis": axis, "value": value}
                yield Step(changed(problem, axis, value), threads, facts)
    for count in range(1, threads + 1):
        for name, problem in BASES.items():
            yield Step(problem, count, {"base": name, "axis": "threads", "value": count})


def by_threads(steps: Iterable[Step]) -> Iterator[tuple[int, Iterator[Step]]]:
    """Neighbours with the same number of threads share their processes."""
    return itertools.groupby(steps, key=lambda step: step.threads)


def cliffs(rates: Sequence[float]) -> list[bool]:
    """Whether each step, from the one before, loses more than a third of the rate.

    >>> cliffs([10.0, 12.0, 7.0, 6.0])
    [False, False, True, False]
    """
    pairs = itertools.pairwise(rates)
    fell = [after < KEPT_RATE * before for before, after in pairs]
    return [False, *fell] if rates else []
