"""Means with their uncertainty: Student's t for a few runs, paired where the runs share a seed.

For a whole number of degrees of freedom Student's distribution is a finite sum of powers of a cosine
(Abramowitz and Stegun 1964, 26.7.3 and 26.7.4), exact to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


def student_within(t: float, degrees: int) -> float:
    """P(|T| <= t) of Student's distribution, t >= 0.

    >>> round(student_within(1.0, 1), 6), round(student_within(2.776445, 4), 6)
    (0.5, 0.95)
    """
    angle = math.atan2(t, math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(odd, degrees - 1, 2):
        total += term
        term *= cosine * cosine * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def student_quantile(level: float, degrees: int) -> float:
    """The t with P(|T| <= t) = level, by bisection.

    >>> round(student_quantile(0.95, 2), 4), round(student_quantile(0.95, 9), 4)
    (4.3027, 2.2622)
    """
    low, high = 0.0, 1.0
    while student_within(high, degrees) < level:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if student_within(middle, degrees) < level else (low, middle)
    return (low + high) / 2


class Estimate(NamedTuple):
    """A mean, the half width of its confidence interval, and of how many values.

    The half width is NaN for a single value: it says nothing about the spread.
    """

    mean: float
    half_width: float
    runs: int


def estimate(values: Sequence[float], level: float = 0.95) -> Estimate:
    """The mean with its interval: mean ± t · s / √n, s the sample's standard deviation.

    >>> mean, half_width, _ = estimate([1.0, 2.0, 3.0])  # s = 1, t = 4.3027
    >>> mean, round(half_width, 4)
    (2.0, 2.4841)
    """
    count = len(values)
    if not count:
        return Estimate(math.nan, math.nan, 0)
    mean = math.fsum(values) / count
    if count == 1:
        return Estimate(mean, math.nan, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return Estimate(mean, student_quantile(level, count - 1) * deviation / math.sqrt(count), count)


def paired_t_test(first: Sequence[float], second: Sequence[float]) -> float:
    """The two-sided p of the paired t-test: how often chance alone gives so large a difference.

    t = d / (s / √n) of the differences, n - 1 degrees of freedom. NaN for fewer than two pairs; 1 if
    all differences are zero, 0 if they are one other number.

    >>> round(paired_t_test([3.0, 4.0, 5.0], [1.0, 3.0, 2.0]), 4)  # d = 2, s = 1, t = 3.4641
    0.0742
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    count = len(differences)
    if count < 2:
        return math.nan
    mean = math.fsum(differences) / count
    variance = math.fsum((each - mean) ** 2 for each in differences) / (count - 1)
    if variance == 0:
        return 1.0 if mean == 0 else 0.0
    return 1 - student_within(abs(mean) / math.sqrt(variance / count), count - 1)
