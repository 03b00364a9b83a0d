"""Penalties on weights, added to the loss in training.

The article's definitions, with strength l:

    L1(l) = l · Σ|w|          L2(l) = (l / 2) · Σw²

so that L2's gradient is l·w, which is also torch's `weight_decay=l` under plain SGD. Keras
leaves the half out: Keras' `l2(l / 2)` is this library's `L2(l)`.

A regulariser sits on the module that owns the weight. A layer puts its `kernel_regularizer`
there, `attach` does the same for any torch model, and `penalty` sums what it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyconvopt import registry

Regularizer = Callable[[Tensor], Tensor]

# The attribute of a module that maps the names of its own parameters to their regularisers.
SLOT = "parameter_regularizers"


def checked(strength: float, name: str) -> None:
    """Refuse a negative strength, and NaN."""
    if not strength >= 0:
        raise ValueError(f"the strength {name} must be 0 or more, got {strength}")


@dataclass(frozen=True)
class L1:
    """l · Σ|w|: drives weights to small values, many near zero. Default l = 0.01.

    >>> float(L1(0.1)(torch.tensor([3.0, -4.0])))  # 0.1 · (3 + 4)
    0.699999988079071
    """

    l: float = 0.01  # noqa: E741 - the article's symbol

    def __post_init__(self) -> None:
        checked(self.l, "l")

    def __call__(self, weight: Tensor) -> Tensor:
        """The penalty of a weight, a scalar tensor."""
        return self.l * weight.abs().sum()


@dataclass(frozen=True)
class L2:
    """(l / 2) · Σw²: the article's weight decay; Keras' `l2(l / 2)`. Default l = 0.01.

    >>> float(L2(0.1)(torch.tensor([3.0, -4.0])))  # 0.05 · (9 + 16)
    1.25
    """

    l: float = 0.01  # noqa: E741 - the article's symbol

    def __post_init__(self) -> None:
        checked(self.l, "l")

    def __call__(self, weight: Tensor) -> Tensor:
        """The penalty of a weight, a scalar tensor."""
        return 0.5 * self.l * weight.square().sum()


@dataclass(frozen=True)
class L1L2:
    """l1 · Σ|w| + (l2 / 2) · Σw². Defaults 0.01 each.

    >>> float(L1L2(l1=0.5, l2=0.1)(torch.tensor([3.0, -4.0])))  # 3.5 + 1.25
    4.75
    """

    l1: float = 0.01
    l2: float = 0.01

    def __post_init__(self) -> None:
        checked(self.l1, "l1")
        checked(self.l2, "l2")

    def __call__(self, weight: Tensor) -> Tensor:
        """The penalty of a weight, a scalar tensor."""
        return self.l1 * weight.abs().sum() + 0.5 * self.l2 * weight.square().sum()


TABLE: dict[str, type] = {"l1": L1, "l2": L2, "l1_l2": L1L2}


def get(spec: Any) -> Regularizer | None:
    """The regulariser of that name, the callable itself, or None for None.

    >>> get('l2')
    L2(l=0.01)
    """
    return None if spec is None else registry.make("regularizer", TABLE, spec)


def describe(regularizer: Any) -> dict[str, Any] | None:
    """Name and settings for a saved model; `get` reads them back."""
    if regularizer is None:
        return None
    return registry.describe("regularizer", TABLE, regularizer)


def set_on(module: nn.Module, parameter: str, regularizer: Regularizer | None) -> None:
    """Put a regulariser on one parameter of a module (None takes it away)."""
    table = dict(getattr(module, SLOT, {}))
    table.pop(parameter, None)
    if regularizer is not None:
        table[parameter] = regularizer
    setattr(module, SLOT, table)


def attach(model: nn.Module, patterns: Mapping[str, Any]) -> list[str]:
    """Put regularisers on the parameters of any model, by name; returns the names it met.

    `patterns` maps shell patterns over `model.named_parameters()` to regularisers (an object,
    a name, or None to take one away). Where two patterns meet one parameter, the later counts;
    a regulariser that was there before is replaced.

    Errors: ValueError for a pattern that meets no parameter.

    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    >>> attach(model, {'*.weight': L2(1e-4)})
    ['0.weight', '2.weight']
    """
    names = [name for name, _ in model.named_parameters()]
    met: list[str] = []
    for pattern, spec in patterns.items():
        matches = [name for name in names if fnmatchcase(name, pattern)]
        if not matches:
            raise ValueError(
                f"no parameter is named like {pattern!r}; this model has {', '.join(names)}"
            )
        for name in matches:
            owner, _, parameter = name.rpartition(".")
            set_on(model.get_submodule(owner), parameter, get(spec))
        met += [name for name in matches if name not in met]
    return met


class Term(NamedTuple):
    """One penalty: which parameter of which module, and its regulariser."""

    module: nn.Module
    parameter: str
    regularizer: Regularizer


def terms(model: nn.Module) -> list[Term]:
    """Every penalty of the model; a loop that asks each step keeps this list."""
    return [
        Term(module, parameter, regularizer)
        for module in model.modules()
        for parameter, regularizer in getattr(module, SLOT, {}).items()
    ]


def penalty(model: nn.Module | list[Term]) -> Tensor:
    """Σ of all penalties, a scalar tensor that gradients flow through; 0 if there are none.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> _ = nn.init.constant_(model.weight, 2.0), attach(model, {'weight': L2(0.5)})
    >>> penalty(model).item()  # 0.25 · (4 + 4)
    2.0
    """
    found = model if isinstance(model, list) else terms(model)
    total = torch.zeros(())
    for index, (module, parameter, regularizer) in enumerate(found):
        value = regularizer(getattr(module, parameter))
        total = value if index == 0 else total + value
    return total
