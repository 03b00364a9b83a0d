"""TorchScript compiles torch's own modules in place of these."""

from __future__ import annotations

from typing import Any, TypeVar

import torch

Module = TypeVar("Module", bound=type[torch.nn.Module])


def scriptable(ours: Module) -> Module:
    """Have ``torch.jit.script`` compile torch's module of the class's name, around the same state.

    Torch leaves that module in the place of this one in the model that was scripted.
    """
    theirs = getattr(torch.nn, ours.__name__)

    def prepared(self: Any) -> torch.nn.Module:
        if type(self) is not ours:  # a subclass may compute something else
            return self
        module = theirs.__new__(theirs)
        object.__setattr__(module, "__dict__", self.__dict__)
        return module

    ours.__prepare_scriptable__ = prepared  # type: ignore[attr-defined]
    return ours
