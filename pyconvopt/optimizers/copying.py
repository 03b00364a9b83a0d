"""Optimisers whose copies and pickles are whole: torch's hold groups and states, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from torch.optim import Optimizer
from typing_extensions import override

from pyconvopt import extras


class Whole(Optimizer):
    """Base class of optimisers with attributes of their own, which copies and pickles keep."""

    @override
    def __getstate__(self) -> dict[str, Any]:
        # Without hooks, as torch does, and without the `step` that a scheduler has put here.
        return {
            name: value
            for name, value in self.__dict__.items()
            if not name.startswith("_optimizer_") and name != "step"
        }


def library(name: str) -> Any:
    """The class of that name of the package pytorch-optimizer, as the package has it.

    Errors: ImportError naming the extra where the package is missing.
    """
    package = extras.require("pytorch_optimizer", f"the optimizer {name}", "optimizers")
    return getattr(package, name)


@cache
def from_library(name: str) -> Callable[..., Optimizer]:
    """The package's class of that name, under its own name, with copies and pickles that are whole."""
    theirs = library(name)

    # A pickle finds a class by its module and name, and there it would find the package's own.
    def reduced(self: Whole) -> tuple[Any, ...]:
        return blank, (name,), self.__getstate__()

    members = {"__reduce__": reduced, "__module__": theirs.__module__, "__doc__": theirs.__doc__}
    return type(theirs)(name, (Whole, theirs), members)


def blank(name: str) -> Optimizer:
    """An optimiser of the package without anything in it, which a pickle then fills."""
    made: Any = from_library(name)
    return made.__new__(made)
