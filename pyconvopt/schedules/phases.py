"""Schedules with an end or with phases: after the end the rate stays where it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from pyconvopt import registry
from pyconvopt.schedules.base import Schedule, require_positive, require_rate, require_share


def half_cosine(begin: float, end: float, share: float) -> float:
    """From `begin` to `end` along half a cosine: share 0 ... 1."""
    return end + (begin - end) * (1 + math.cos(math.pi * share)) / 2


def straight(begin: float, end: float, share: float) -> float:
    """From `begin` to `end` in a straight line."""
    return begin + (end - begin) * share


def square_root(begin: float, end: float, share: float) -> float:
    """From `begin` to `end` as 1 − √share: a fast start and a long tail."""
    return end + (begin - end) * (1 - math.sqrt(share))


@dataclass(frozen=True)
class Ending(Schedule):
    """What schedules of `n` steps share."""

    lr: float
    n: float
    lengths: ClassVar = ("n",)

    def __post_init__(self) -> None:
        require_rate(self.lr, "lr")
        require_positive(self.n, "n")

    @property
    @override
    def length(self) -> float:
        return self.n


@dataclass(frozen=True)
class Polynomial(Ending):
    """(lr − end) · (1 − t / n)^power + end: torch's PolynomialLR, Keras' PolynomialDecay.

    Args: lr, n, end (0), power (1: a straight line, upwards too if end is above lr).

    >>> [Polynomial(1.0, 10, power=2.0)(t) for t in (0, 5, 10, 11)]
    [1.0, 0.25, 0.0, 0.0]
    """

    end: float = 0.0
    power: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_rate(self.end, "end")
        require_positive(self.power, "power")

    @override
    def __call__(self, t: float) -> float:
        return (self.lr - self.end) * (1 - min(t / self.n, 1.0)) ** self.power + self.end


@dataclass(frozen=True)
class Cosine(Ending):
    """end + (lr − end) · (1 + cos(π t / n)) / 2: Keras' CosineDecay (end = alpha · lr).

    Up to step n it is torch's CosineAnnealingLR too, which rises again after it.

    Args: lr, n, end (0).

    >>> [Cosine(1.0, 10)(t) for t in (0, 5, 10, 11)]
    [1.0, 0.5, 0.0, 0.0]

    Source: Loshchilov and Hutter 2017, "SGDR", arXiv:1608.03983.
    """

    end: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_rate(self.end, "end")

    @override
    def __call__(self, t: float) -> float:
        return half_cosine(self.lr, self.end, min(t / self.n, 1.0))


@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """Cosine decays one after another: the i-th takes n · t_mulⁱ steps and begins at lr · m_mulⁱ.

    Keras' CosineDecayRestarts (end = alpha · lr); torch's CosineAnnealingWarmRestarts is m_mul=1.

    Args: lr, n (steps of the first decay), t_mul (2), m_mul (1), end (0).

    >>> [CosineRestarts(1.0, 10, m_mul=0.5)(t) for t in (0, 5, 10, 20, 30)]
    [1.0, 0.5, 0.5, 0.25, 0.25]

    Source: Loshchilov and Hutter 2017, "SGDR", arXiv:1608.03983.
    """

    lr: float
    n: float
    t_mul: float = 2.0
    m_mul: float = 1.0
    end: float = 0.0
    lengths: ClassVar = ("n",)

    def __post_init__(self) -> None:
        require_rate(self.lr, "lr")
        require_positive(self.n, "n")
        if not 1 <= self.t_mul < math.inf:
            raise ValueError(f"t_mul must be 1 or more, got {self.t_mul}")
        require_positive(self.m_mul, "m_mul")
        require_rate(self.end, "end")

    @override
    def __call__(self, t: float) -> float:
        passed = t / self.n
        if self.t_mul == 1:
            restarts = math.floor(passed)
            share = passed - restarts
        else:
            # A billionth more, so that the logarithm's rounding does not delay a restart.
            restarts = math.floor(math.log(1 - passed * (1 - self.t_mul), self.t_mul) + 1e-9)
            begun = (1 - self.t_mul**restarts) / (1 - self.t_mul)
            share = max((passed - begun) / self.t_mul**restarts, 0.0)
        # Keras multiplies what is above the end, so that every decay ends there.
        return self.end + (self.lr - self.end) * self.m_mul**restarts * half_cosine(1, 0, share)


@dataclass(frozen=True)
class OneCycle(Ending):
    """Up from lr / div_factor to lr, then down to a tiny rate, in n steps: torch's OneCycleLR.

    The peak is at pct_start · n − 1, the last rate lr / (div_factor · final_div_factor) at step
    n − 1, as torch counts.

    Args: lr (max_lr), n (total_steps), pct_start (0.3), div_factor (25), final_div_factor (1e4),
    anneal_strategy ('cos', or 'linear').

    >>> [round(OneCycle(1.0, 100)(t), 4) for t in (0, 29, 99)]
    [0.04, 1.0, 0.0]

    Source: Smith and Topin 2018, "Super-convergence", arXiv:1708.07120.
    """

    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    anneal_strategy: str = "cos"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_share(self.pct_start, "pct_start")
        require_positive(self.div_factor, "div_factor")
        require_positive(self.final_div_factor, "final_div_factor")
        if self.anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"anneal_strategy must be 'cos' or 'linear', got {self.anneal_strategy!r}"
            )

    @override
    def __call__(self, t: float) -> float:
        between = half_cosine if self.anneal_strategy == "cos" else straight
        first, peak, last = self.lr / self.div_factor, self.pct_start * self.n - 1, self.n - 1
        if t <= peak:
            return between(first, self.lr, t / peak if peak > 0 else 1.0)
        share = (t - peak) / (last - peak) if last > peak else 1.0
        return between(self.lr, first / self.final_div_factor, min(share, 1.0))


DECAYS = {"linear": straight, "cosine": half_cosine, "sqrt": square_root}


@dataclass(frozen=True)
class WSD(Ending):
    """Warm-up, stable, decay: a rise to lr, lr itself, and a fall to `end` at step n.

    Args: lr, n, warmup_share (0.05: the share of n that rises from 0), decay_share (0.2: the share
    of n that falls), end (0), shape of the fall ('linear', 'cosine' or 'sqrt': 1 − √share).

    Errors: ValueError for shares outside 0–1, or of more than 1 together.

    >>> schedule = WSD(1.0, 100, warmup_share=0.1, decay_share=0.2)
    >>> [schedule(t) for t in (0, 5, 10, 80, 90, 100)]
    [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]

    Source: Hu et al. 2024, "MiniCPM", arXiv:2404.06395; 1 − √share: Hägele et al. 2024,
    arXiv:2405.18392.
    """

    warmup_share: float = 0.05
    decay_share: float = 0.2
    end: float = 0.0
    shape: str = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_share(self.warmup_share, "warmup_share")
        require_share(self.decay_share, "decay_share")
        if self.warmup_share + self.decay_share > 1:
            raise ValueError(
                f"warm-up and decay take {self.warmup_share:g} and {self.decay_share:g} of the "
                "steps: together at most 1"
            )
        require_rate(self.end, "end")
        registry.find("shape", DECAYS, self.shape)

    @override
    def __call__(self, t: float) -> float:
        risen, falls = self.warmup_share * self.n, (1 - self.decay_share) * self.n
        if t < risen:
            return self.lr * t / risen
        if t < falls or self.decay_share == 0:
            return self.lr
        share = min((t - falls) / (self.n - falls), 1.0)
        return registry.find("shape", DECAYS, self.shape)(self.lr, self.end, share)
