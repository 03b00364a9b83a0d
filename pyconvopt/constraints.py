"""Constraints: limits that weights are put back into after each step of the optimiser.

Definitions are Keras'. A constraint is a function `constraint(w) -> w` of a weight in Keras'
layout, so `axis` counts there, for layers and for torch modules alike: a dense kernel is
(in, out), a convolution's (height, width, in, out), along one axis (length, in, out). The norm of
what meets in one unit is thus over axis=0 of a dense kernel and over axis=(0, 1, 2) of a
convolution's, (0, 1) along one axis.

`Trainer` applies them; a loop of your own calls `constraints.apply(model)` after its step.

Source: Srebro and Shraibman 2005; Hinton et al. 2012 (arXiv:1207.0580) for the max-norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pyconvopt import attaching, registry
from pyconvopt.data.checks import whole

Constraint = Callable[[Tensor], Tensor]

# The attribute of a module that maps the names of its own parameters to their constraints.
SLOT = "parameter_constraints"

# Added to norms that are divided by, as in Keras.
EPSILON = 1e-7


def axes_of(weight: Tensor, axis: int | Sequence[int]) -> tuple[int, ...]:
    """The axes of a weight that `axis` names, counted from the front.

    Errors: ValueError for none, one twice, or one that the weight does not have.

    >>> axes_of(torch.empty(3, 3, 8, 16), (0, -1))
    (0, 3)
    """
    given = axis if isinstance(axis, Iterable) else (axis,)
    try:
        axes = tuple(whole("axis", each, None) for each in given)
    except ValueError:
        axes = ()
    inside = all(-weight.dim() <= each < weight.dim() for each in axes)
    if not axes or not inside or len({each % weight.dim() for each in axes}) < len(axes):
        raise ValueError(
            f"axis must name axes of the weight, (in, out), (length, in, out) or "
            "(height, width, in, out); got "
            f"{axis!r} for a weight of shape {tuple(weight.shape)}"
        )
    return tuple(each % weight.dim() for each in axes)


def norms(weight: Tensor, axis: int | Sequence[int]) -> Tensor:
    """√Σw² over the axes, which stay with size 1."""
    return torch.linalg.vector_norm(weight, dim=axes_of(weight, axis), keepdim=True)


@dataclass(frozen=True)
class MaxNorm:
    """w · min(‖w‖, max_value) / (‖w‖ + 1e-7), norms over `axis`. Defaults 2 and 0.

    >>> MaxNorm(1.0)(torch.tensor([[3.0, 0.3], [4.0, 0.4]]))
    tensor([[0.6000, 0.3000],
            [0.8000, 0.4000]])
    """

    max_value: float = 2.0
    axis: int | Sequence[int] = 0

    def __post_init__(self) -> None:
        if not self.max_value >= 0:
            raise ValueError(f"max_value must be 0 or more, got {self.max_value}")

    def __call__(self, weight: Tensor) -> Tensor:
        """The weight within the limit."""
        size = norms(weight, self.axis)
        return weight * (size.clamp(max=self.max_value) / (EPSILON + size))


@dataclass(frozen=True)
class UnitNorm:
    """w / (‖w‖ + 1e-7), norms over `axis`. Default 0.

    >>> UnitNorm()(torch.tensor([[3.0], [4.0]]))
    tensor([[0.6000],
            [0.8000]])
    """

    axis: int | Sequence[int] = 0

    def __call__(self, weight: Tensor) -> Tensor:
        """The weight with norm 1."""
        return weight / (EPSILON + norms(weight, self.axis))


@dataclass(frozen=True)
class NonNeg:
    """max(w, 0).

    >>> NonNeg()(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """

    def __call__(self, weight: Tensor) -> Tensor:
        """The weight without negative values."""
        return weight.clamp(min=0)


@dataclass(frozen=True)
class MinMaxNorm:
    """w · d / (‖w‖ + 1e-7), d = rate · clip(‖w‖, min_value, max_value) + (1 - rate) · ‖w‖.

    Defaults: min_value 0, max_value 1, rate 1 (the limits hold at once; less moves towards them),
    axis 0.

    >>> MinMaxNorm(max_value=1.0, rate=0.5)(torch.tensor([[3.0], [4.0]]))  # norm 5 goes to 3
    tensor([[1.8000],
            [2.4000]])
    """

    min_value: float = 0.0
    max_value: float = 1.0
    rate: float = 1.0
    axis: int | Sequence[int] = 0

    def __post_init__(self) -> None:
        if not 0 <= self.min_value <= self.max_value:
            raise ValueError(
                "min_value and max_value must be 0 or more and in order, got "
                f"{self.min_value} and {self.max_value}"
            )
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate must lie in 0 ... 1, got {self.rate}")

    def __call__(self, weight: Tensor) -> Tensor:
        """The weight within the limits, or nearer to them."""
        size = norms(weight, self.axis)
        inside = size.clamp(self.min_value, self.max_value)
        desired = self.rate * inside + (1 - self.rate) * size
        return weight * (desired / (EPSILON + size))


TABLE: dict[str, type] = {
    "max_norm": MaxNorm,
    "unit_norm": UnitNorm,
    "non_neg": NonNeg,
    "min_max_norm": MinMaxNorm,
}


def get(spec: Any) -> Constraint | None:
    """The constraint of that name, the callable itself, or None for None.

    >>> get('unit_norm')
    UnitNorm(axis=0)
    """
    return None if spec is None else registry.make("constraint", TABLE, spec)


def describe(constraint: Any) -> dict[str, Any] | None:
    """Name and settings for a saved model; `get` reads them back."""
    return None if constraint is None else registry.describe("constraint", TABLE, constraint)


def keras_layout(weight: Tensor) -> Tensor:
    """A view of a kernel in torch's layout as Keras has it; other weights as they are.

    >>> keras_layout(torch.empty(64, 32, 3, 5)).shape
    torch.Size([3, 5, 32, 64])
    """
    if weight.dim() == 4:
        return weight.permute(2, 3, 1, 0)
    return weight.t() if weight.dim() == 2 else weight


def keras_view(module: nn.Module, parameter: str) -> Tensor:
    """A view of a module's parameter as Keras has it, whatever the module.

    >>> keras_view(nn.Conv1d(16, 8, 3), 'weight').shape
    torch.Size([3, 16, 8])
    """
    weight = getattr(module, parameter)
    for _, view in getattr(module, "keras_weights", list)():
        if view.data_ptr() == weight.data_ptr():
            return view
    if isinstance(module, _ConvNd) and weight.dim() > 2:
        return weight.permute(*range(2, weight.dim()), 1, 0)
    # torch's embeddings lie as Keras' do: (number, features).
    return weight if isinstance(module, nn.Embedding) else keras_layout(weight)


def set_on(module: nn.Module, parameter: str, constraint: Constraint | None) -> None:
    """Put a constraint on one parameter of a module (None takes it away)."""
    attaching.set_on(module, SLOT, parameter, constraint)


def attach(model: nn.Module, patterns: Mapping[str, Any]) -> list[str]:
    """Put constraints on the parameters of any model, by name; returns the names it met.

    `patterns` maps shell patterns over `model.named_parameters()` to constraints (an object, a
    name, or None to take one away). Where two patterns meet one parameter, the later counts.

    Errors: ValueError for a pattern that meets no parameter.

    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    >>> attach(model, {'0.weight': MaxNorm(2, axis=(0, 1, 2)), '*.bias': 'non_neg'})
    ['0.weight', '0.bias', '2.bias']
    """
    return attaching.attach(model, SLOT, patterns, get)


class Limit(NamedTuple):
    """One constraint: which parameter of which module, and its limit."""

    module: nn.Module
    parameter: str
    constraint: Constraint

    @property
    def weight(self) -> Tensor:
        """The weight itself, in torch's layout."""
        return getattr(self.module, self.parameter)

    def row_bound(self) -> float | None:
        """The most the norm of each row of the weight's first axis may be; None if it is no such limit.

        Errors: ValueError for an axis that the weight does not have.
        """
        if type(self.constraint) is not MaxNorm:
            return None
        weight, view = self.weight, keras_view(self.module, self.parameter)
        left = set(range(view.dim())) - set(axes_of(view, self.constraint.axis))
        if weight.dim() != view.dim() or len(left) != 1:
            return None
        (kept,) = left
        units = view.shape[kept]
        rows = units == len(weight) and (units == 1 or view.stride(kept) == weight.stride(0))
        return float(self.constraint.max_value) if rows else None

    def apply(self) -> None:
        """Put the weight back into its limit, in place."""
        with torch.no_grad():
            view = keras_view(self.module, self.parameter)
            view.copy_(self.constraint(view))


def limits(model: nn.Module) -> list[Limit]:
    """Every constraint of the model on a weight that is trained."""
    return [
        Limit(module, parameter, constraint)
        for module, parameter, constraint in attaching.attached(model, SLOT)
        if getattr(module, parameter).requires_grad
    ]


def apply(model: nn.Module) -> None:
    """Put every constrained weight of the model back into its limit, in place.

    >>> model = nn.Linear(2, 2)
    >>> _ = nn.init.constant_(model.bias, -1.0), attach(model, {'bias': 'non_neg'})
    >>> apply(model)
    >>> model.bias.tolist()
    [0.0, 0.0]
    """
    for limit in limits(model):
        limit.apply()
