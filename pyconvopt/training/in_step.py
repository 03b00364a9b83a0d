"""Clipping by norm, proximal steps and max-norms within the optimiser's own pass over the weights.

Apart, each is one to three more passes over all weights or gradients; within the step of an optimiser of
this library the norm of the gradients is one, and the rest none.
"""

from __future__ import annotations

import torch

from pyconvopt.optimizers.extras import Extras, scale_to, total_norm
from pyconvopt.optimizers.fused import Fused
from pyconvopt.optimizers.groups import parameters_of
from pyconvopt.training.after_step import AfterStep


class InStep:
    """Called before each step of the optimiser, which then does what `after` would have done after it.

    max_norm: None, or the most the gradients' common norm may be. The gradients themselves stay as they
    are. after: what follows the step; what the step can do is taken out of it.
    """

    def __init__(self, optimizer: Fused, max_norm: float | None, after: AfterStep) -> None:
        self.optimizer, self.max_norm = optimizer, max_norm
        self.proximal = [term for term in after.proximal if term.is_plain]
        after.proximal = [term for term in after.proximal if not term.is_plain]
        stepped = set(map(id, parameters_of(optimizer)))
        self.bounds: dict[int, float] = {}
        for limit in [*after.limits]:
            bound = limit.row_bound()
            if bound is not None and id(limit.weight) in stepped:
                self.bounds[id(limit.weight)] = bound
                after.limits.remove(limit)

    def __bool__(self) -> bool:
        return self.max_norm is not None or bool(self.proximal or self.bounds)

    def __call__(self, step: int) -> None:
        """Tell the optimiser what to do beside its next step."""
        scale = 1.0
        if self.max_norm is not None:
            given = [p.grad for p in parameters_of(self.optimizer) if p.grad is not None]
            scale = scale_to(total_norm(given), self.max_norm)
        shrink: dict[int, float] = {}
        for term in self.proximal:
            if term.weight.requires_grad:
                key = id(term.weight)
                shrink[key] = shrink.get(key, 0.0) + term.threshold(step)
        if scale != 1 or shrink or self.bounds:
            self.optimizer.extras = Extras(scale, shrink, self.bounds)


def in_step(optimizer: object, max_norm: float | None, after: AfterStep) -> InStep | None:
    """What the optimiser does within its step; None where it can do nothing there, or there is nothing."""
    if not isinstance(optimizer, Fused):
        return None
    if any(not p.is_cpu or p.dtype != torch.float32 for p in parameters_of(optimizer)):
        return None
    return InStep(optimizer, max_norm, after) or None
