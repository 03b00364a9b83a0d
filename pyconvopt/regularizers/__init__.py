"""Penalties on weights and outputs, added to the loss in training.

The article's definitions, with strength l:

    L1(l) = l · Σ|w|          L2(l) = (l / 2) · Σw²

so that L2's gradient is l·w, which is also torch's `weight_decay=l` under plain SGD. Keras
leaves the half out: Keras' `l2(l / 2)` is this library's `L2(l)`. Every strength may be a
function of the step, such as a schedule.

A regulariser sits on the module that owns the weight. A layer puts its `kernel_regularizer`
there, `attach` does the same for any torch model, and `penalty` sums what it finds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pyconvopt import registry
from pyconvopt.regularizers.activity import attach_activity, watch
from pyconvopt.regularizers.base import Penalty
from pyconvopt.regularizers.matrices import Orthogonal, SpectralNorm
from pyconvopt.regularizers.terms import (
    SLOT,
    Term,
    attach,
    penalty,
    proximal_step,
    proximal_terms,
    set_on,
    sparsity,
    terms,
)
from pyconvopt.regularizers.weights import L1, L1L2, L2, GroupLasso, ProximalL1

Regularizer = Callable[[Tensor], Tensor]

TABLE: dict[str, type] = {
    "l1": L1,
    "l2": L2,
    "l1_l2": L1L2,
    "group_lasso": GroupLasso,
    "proximal_l1": ProximalL1,
    "orthogonal": Orthogonal,
    "spectral_norm": SpectralNorm,
}


def get(spec: Any) -> Regularizer | None:
    """The regulariser of that name, the callable itself, or None for None.

    >>> get('l2')
    L2(l=0.01)
    """
    return None if spec is None else registry.make("regularizer", TABLE, spec)


def describe(regularizer: Any) -> dict[str, Any] | None:
    """Name and settings for a saved model; `get` reads them back.

    Errors: ValueError for a strength that is a function: a file holds numbers.
    """
    if regularizer is None:
        return None
    if isinstance(regularizer, Penalty) and any(map(callable, vars(regularizer).values())):
        raise ValueError(
            f"regularizer {regularizer!r} cannot be saved: a file holds a strength that is a "
            "number, not a function of the step"
        )
    return registry.describe("regularizer", TABLE, regularizer)


__all__ = [
    "L1",
    "L1L2",
    "L2",
    "SLOT",
    "TABLE",
    "GroupLasso",
    "Orthogonal",
    "Penalty",
    "ProximalL1",
    "Regularizer",
    "SpectralNorm",
    "Term",
    "attach",
    "attach_activity",
    "describe",
    "get",
    "penalty",
    "proximal_step",
    "proximal_terms",
    "set_on",
    "sparsity",
    "terms",
    "watch",
]
