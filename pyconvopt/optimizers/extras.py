"""What a fused step does beside its rule, in the same pass: gradients clipped, weights shrunk and bounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as torch_functional
from torch import Tensor
from torch.nn.utils import get_total_norm

from pyconvopt.constraints import MaxNorm


@dataclass(frozen=True)
class Extras:
    """For one step; parameters are named by their `id`.

    g ← scale · g before the rule; after it w ← sign(w) · max(|w| − shrink, 0), then each row r of the
    first axis r ← r · min(‖r‖, bound) / (‖r‖ + 1e-7).

    scale (1), shrink (none: thresholds), bound (none: the most a row's norm may be; of parameters of two
    axes and more).
    """

    scale: float = 1.0
    shrink: Mapping[int, float] = field(default_factory=dict)
    bound: Mapping[int, float] = field(default_factory=dict)

    def table(self, parameters: Sequence[Tensor]) -> Tensor | None:
        """(threshold, bound) of each parameter, as the operators take them; None where there are none."""
        rows = [(self.shrink.get(id(p), 0.0), self.bound.get(id(p), -1.0)) for p in parameters]
        if all(row == (0.0, -1.0) for row in rows):
            return None
        return torch.tensor(rows, dtype=torch.float64)

    def before(self, parameters: Sequence[Tensor]) -> None:
        """Scale the gradients of parameters that no operator of this library steps."""
        for p in parameters:
            if p.grad is not None and self.scale != 1:
                p.grad.mul_(self.scale)

    def after(self, parameters: Sequence[Tensor]) -> None:
        """Shrink and bound such parameters, and those that had no gradient."""
        with torch.no_grad():
            for p in parameters:
                threshold, bound = self.shrink.get(id(p), 0.0), self.bound.get(id(p))
                if threshold:
                    p.copy_(torch_functional.softshrink(p, threshold))
                if bound is not None:
                    p.copy_(MaxNorm(bound, axis=tuple(range(1, p.dim())))(p))


def total_norm(gradients: Sequence[Tensor]) -> float:
    """√Σg² over all gradients: in one pass where they are dense float32 tensors on the CPU, else torch's."""
    if gradients:
        try:
            return float(torch.ops.pyconvopt.sum_of_squares.default(gradients)) ** 0.5
        except RuntimeError:
            pass
    return float(get_total_norm(gradients))


def scale_to(norm: float, most: float) -> float:
    """The factor that brings gradients of that norm to at most `most`, as `torch.nn.utils.clip_grad_norm_`.

    >>> round(scale_to(4.0, 1.0), 4), scale_to(0.5, 1.0)
    (0.25, 1.0)
    """
    factor = most / (norm + 1e-6)
    return 1.0 if factor >= 1 else factor  # NaN stays NaN
