"""Gradients kept within bounds before an update: entry by entry, unit by unit, and all together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer

from pyconvopt import registry
from pyconvopt.attaching import matching
from pyconvopt.optimizers.groups import parameters_of
from pyconvopt.regularizers.base import filters_view


@dataclass(frozen=True)
class AdaptiveClip:
    """Adaptive gradient clipping: no unit's gradient is long beside the unit's weights.

    g_i ← g_i · min(1, clipping · max(‖w_i‖, eps) / ‖g_i‖)

    with w_i all weights of output unit i: a row (out, ...) of a dense layer or a convolution. A
    parameter with a single axis longer than 1 (a bias, a gain) is one unit as a whole.

    Args: clipping (0.01), eps (1e-3: so that weights of 0 can move), leave_out (none: shell
    patterns over `model.named_parameters()`; the paper leaves the last linear layer out).

    Errors: ValueError for a clipping or eps that is not above 0, or a pattern that meets nothing.

    >>> model = nn.Linear(2, 2, bias=False)
    >>> _ = nn.init.eye_(model.weight)
    >>> model.weight.grad = torch.tensor([[3.0, 4.0], [0.0, 0.3]])
    >>> AdaptiveClip(clipping=0.5).on(model)()  # both rows of the weight have length 1
    >>> model.weight.grad
    tensor([[0.3000, 0.4000],
            [0.0000, 0.3000]])

    Source: Brock, De, Smith and Simonyan 2021, "High-Performance Large-Scale Image Recognition
    Without Normalization", arXiv:2102.06171.
    """

    clipping: float = 0.01
    eps: float = 1e-3
    leave_out: Sequence[str] = ()

    def __post_init__(self) -> None:
        require_bound("clipping", self.clipping)
        require_bound("eps", self.eps)
        if isinstance(self.leave_out, str):
            raise ValueError(f"leave_out must be a list of patterns, got {self.leave_out!r}")

    def on(self, model: nn.Module) -> Callable[[], None]:
        """What clips the gradients of that model."""
        names = [name for name, _ in model.named_parameters()]
        for pattern in self.leave_out:
            matching(names, pattern, "parameter")
        owned = [
            (parameter, model.get_submodule(name.rpartition(".")[0]))
            for name, parameter in model.named_parameters()
            if not any(fnmatchcase(name, pattern) for pattern in self.leave_out)
        ]

        def clip() -> None:
            for parameter, owner in owned:
                if parameter.grad is not None:
                    self.clip(parameter.detach(), parameter.grad, owner)

        return clip

    def clip(self, weight: Tensor, gradient: Tensor, owner: nn.Module) -> None:
        """Clip the gradient of one of a module's parameters in place, unit by unit."""
        (units, count), (shaped, _) = (filters_view(owner, each) for each in (weight, gradient))
        if sum(size > 1 for size in weight.shape) <= 1:
            count = 0
        axes = tuple(range(count, units.dim()))
        size = torch.linalg.vector_norm(units, dim=axes, keepdim=True)
        most = self.clipping * size.clamp_(min=self.eps)
        length = torch.linalg.vector_norm(shaped, dim=axes, keepdim=True)
        shaped.mul_(torch.where(length > most, most / length, 1.0))


def adaptive(spec: Any) -> AdaptiveClip | None:
    """Adaptive clipping from a number (its `clipping`), a table of settings, or itself.

    >>> adaptive({"clipping": 0.02, "leave_out": ["fc.*"]})
    AdaptiveClip(clipping=0.02, eps=0.001, leave_out=['fc.*'])
    """
    if spec is None or isinstance(spec, AdaptiveClip):
        return spec
    if isinstance(spec, Mapping):
        table, name = {"adaptive_clip": AdaptiveClip}, "adaptive_clip"
        return registry.make("setting", table, {"name": name, "config": dict(spec)})
    require_bound("adaptive_clip", spec)
    return AdaptiveClip(spec)


def describe(clip: AdaptiveClip | None) -> dict[str, Any] | None:
    """Its settings for a saved model; `adaptive` reads them back."""
    return None if clip is None else {**vars(clip), "leave_out": list(clip.leave_out)}


def require_bound(name: str, bound: Any) -> None:
    """Refuse a bound that is not above 0."""
    if isinstance(bound, bool) or not isinstance(bound, (int, float)) or not bound > 0:
        raise ValueError(f"{name} must be more than 0, got {bound}")


class Clipping:
    """What the `Trainer` is told of clipping; `on` a model it is what clips before an update.

    Each kind only shrinks, so that all bounds hold together in the end.
    """

    def __init__(self, norm: float | None, value: float | None, adaptive_clip: Any) -> None:
        for name, bound in (("clip_norm", norm), ("clip_value", value)):
            if bound is not None:
                require_bound(name, bound)
        self.norm, self.value, self.adaptive = norm, value, adaptive(adaptive_clip)

    def settings(self) -> dict[str, Any]:
        """The options that were given, for a saved model."""
        given = {
            "clip_norm": self.norm,
            "clip_value": self.value,
            "adaptive_clip": describe(self.adaptive),
        }
        return {name: each for name, each in given.items() if each is not None}

    def on(self, model: nn.Module, norm_apart: bool = True) -> Callable[[Optimizer], None] | None:
        """What clips the gradients of that model before an update; None if nothing does.

        `norm_apart` (True): by their common norm too; False leaves that to the optimiser's step.
        """
        norm = self.norm if norm_apart else None
        if norm is None and self.value is None and self.adaptive is None:
            return None
        by_unit = None if self.adaptive is None else self.adaptive.on(model)

        def clip(optimizer: Optimizer) -> None:
            parameters = parameters_of(optimizer)
            if self.value is not None:
                clip_grad_value_(parameters, self.value)
            if by_unit is not None:
                by_unit()
            if norm is not None:
                clip_grad_norm_(parameters, norm)

        return clip
