"""What a step does with the closure it may be given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

repeating: ContextVar[bool] = ContextVar("repeating", default=False)
"""Whether the batch at hand is gone over again, by a step that has its loss already."""


@contextmanager
def repeated() -> Iterator[None]:
    """Within, a batch is gone over again: nothing is to count it twice."""
    token = repeating.set(True)
    try:
        yield
    finally:
        repeating.reset(token)


def loss_of(closure: Callable[[], Any] | None) -> Any:
    """The closure's loss, computed with gradients, whatever the step runs in; None without one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def needs_closure(optimizer: Any) -> bool:
    """Whether an optimiser cannot step without one: it says so, or its step has no default for it.

    >>> weights = [torch.nn.Parameter(torch.ones(1))]
    >>> needs_closure(torch.optim.LBFGS(weights)), needs_closure(torch.optim.SGD(weights))
    (True, False)
    """
    says = getattr(optimizer, "needs_closure", None)
    if says is not None:
        return bool(says)
    # The class's: a scheduler puts a step of its own on the object.
    given = list(inspect.signature(type(optimizer).step).parameters.values())[1:]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(each.kind in kinds and each.default is each.empty for each in given)
