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
        cls = type(self)
        # Any other subclass than a frozen model's may compute something else.
        if cls is not ours and vars(cls).get("plain") is not ours:
            return self
        module = theirs.__new__(theirs)
        object.__setattr__(module, "__dict__", self.__dict__)
        return module

    ours.__prepare_scriptable__ = prepared  # type: ignore[attr-defined]
    return ours
