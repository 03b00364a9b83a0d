"""The same numbers in every process: the tensors of a layer, and what is kept of its results."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

INPUT, WEIGHT, GRADIENT = range(3)
KEPT = 64  # elements of a result


def draw(index: int, shape: Sequence[int]) -> np.ndarray:
    """Normal numbers, seeded by `index`; a weight's are scaled by 1/√(inputs of an output)."""
    random = np.random.default_rng((2, index))
    x = random.standard_normal(tuple(shape), dtype=np.float32)
    return x / np.float32(math.sqrt(math.prod(shape[1:]))) if index == WEIGHT else x


def samples(*results: np.ndarray) -> list[float]:
    """Of each result its RMS and some elements: equal where peers computed the same.

    The places are counted in the order of the axes, whatever the memory's.
    """
    kept: list[float] = []
    for y in results:
        places = np.random.default_rng(3).integers(0, y.size, KEPT)
        kept.append(float(np.linalg.norm(y) / math.sqrt(y.size)))
        kept += y[np.unravel_index(places, y.shape)].tolist()
    return kept


def apart(first: Sequence[float], second: Sequence[float]) -> float:
    """The largest distance of two lists of `samples`, as a share of the RMS of its result.

    >>> apart([2.0] + [1.0] * 64, [2.0] + [1.0] * 63 + [1.5])
    0.25
    """
    worst = 0.0
    for begin in range(0, len(first), KEPT + 1):
        scale = max(abs(first[begin]), abs(second[begin]), 1e-30)
        part = slice(begin, begin + KEPT + 1)
        for a, b in zip(first[part], second[part], strict=True):
            gap = abs(a - b) / scale
            worst = gap if not gap <= worst else worst
    return worst
