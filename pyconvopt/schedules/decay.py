"""Schedules that decay by a formula of the step alone: no end is known to them."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from pyconvopt.schedules.base import Schedule, require_positive, require_rate


@dataclass(frozen=True)
class Constant(Schedule):
    """lr at every step.

    >>> Constant(0.1)(1000)
    0.1
    """

    lr: float

    def __post_init__(self) -> None:
        require_rate(self.lr, "lr")

    @override
    def __call__(self, t: float) -> float:
        return self.lr


@dataclass(frozen=True)
class Exponential(Schedule):
    """lr · gamma^t: torch's ExponentialLR; Keras' ExponentialDecay of one decay step.

    Errors: ValueError for a negative lr or a gamma that is not above 0.

    >>> Exponential(0.8, 0.5)(2)
    0.2
    """

    lr: float
    gamma: float

    def __post_init__(self) -> None:
        require_rate(self.lr, "lr")
        require_positive(self.gamma, "gamma")

    @classmethod
    def from_delta(cls, lr: float, delta: float) -> Exponential:
        """With the article's decay factor δ, once an epoch: gamma = 1 / √(1 + δ).

        >>> Exponential.from_delta(0.1, 3.0).per_epoch()
        PerEpoch(schedule=Exponential(lr=0.1, gamma=0.5), staircase=False, steps=None)
        """
        if not delta >= 0:
            raise ValueError(f"delta must be 0 or more, got {delta}")
        return cls(lr, 1 / math.sqrt(1 + delta))

    @override
    def __call__(self, t: float) -> float:
        return self.lr * self.gamma**t

    @override
    def stretched(self, factor: float) -> Exponential:
        return Exponential(self.lr, self.gamma ** (1 / factor))


@dataclass(frozen=True)
class Redwood(Schedule):
    """lr / √(1 + delta · t): fast at first, slower and slower.

    Errors: ValueError for a negative lr or delta.

    >>> Redwood(0.1, 1.0)(3)
    0.05
    """

    lr: float
    delta: float

    def __post_init__(self) -> None:
        require_rate(self.lr, "lr")
        if not 0 <= self.delta < math.inf:
            raise ValueError(f"delta must be 0 or more, and finite, got {self.delta}")

    @override
    def __call__(self, t: float) -> float:
        return self.lr / math.sqrt(1 + self.delta * t)

    @override
    def stretched(self, factor: float) -> Redwood:
        return Redwood(self.lr, self.delta / factor)


@dataclass(frozen=True)
class InverseTime(Schedule):
    """lr / (1 + decay_rate · t / n), with `staircase` ⌊t / n⌋: Keras' InverseTimeDecay.

    Args: lr, n (decay_steps), decay_rate, staircase (False).

    >>> InverseTime(0.1, 10, 1.0)(10)
    0.05
    """

    lr: float
    n: float
    decay_rate: float
    staircase: bool = False
    lengths: ClassVar = ("n",)

    def __post_init__(self) -> None:
        require_rate(self.lr, "lr")
        require_positive(self.n, "n")
        require_rate(self.decay_rate, "decay_rate")

    @override
    def __call__(self, t: float) -> float:
        passed = t / self.n
        return self.lr / (1 + self.decay_rate * (math.floor(passed) if self.staircase else passed))


@dataclass(frozen=True)
class Step(Schedule):
    """lr · gamma^⌊t / step_size⌋: torch's StepLR. Default gamma 0.1.

    >>> [Step(1.0, 10, 0.5)(t) for t in (9, 10, 20)]
    [1.0, 0.5, 0.25]
    """

    lr: float
    step_size: float
    gamma: float = 0.1
    lengths: ClassVar = ("step_size",)

    def __post_init__(self) -> None:
        require_rate(self.lr, "lr")
        require_positive(self.step_size, "step_size")
        require_positive(self.gamma, "gamma")

    @override
    def __call__(self, t: float) -> float:
        return self.lr * self.gamma ** math.floor(t / self.step_size)


@dataclass(frozen=True)
class MultiStep(Schedule):
    """lr · gamma^(milestones passed): torch's MultiStepLR. Default gamma 0.1.

    A milestone is the first step with the lower rate. Errors: ValueError for milestones that do
    not increase.

    >>> [MultiStep(1.0, (10, 15), 0.5)(t) for t in (9, 10, 15)]
    [1.0, 0.5, 0.25]
    """

    lr: float
    milestones: tuple[float, ...]
    gamma: float = 0.1
    lengths: ClassVar = ("milestones",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones))
        require_rate(self.lr, "lr")
        require_positive(self.gamma, "gamma")
        for milestone in self.milestones:
            require_positive(milestone, "a milestone")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must increase, got {self.milestones}")

    @override
    def __call__(self, t: float) -> float:
        return self.lr * self.gamma ** bisect_right(self.milestones, t)
