"""Whether somebody watches a module: such a module is run alone, so that its hooks see what they saw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def hooked(state: Mapping[str, Any]) -> bool:
    """Whether there are hooks in a module's `__dict__`."""
    return bool(
        state["_forward_hooks"]
        or state["_forward_pre_hooks"]
        or state["_backward_hooks"]
        or state["_backward_pre_hooks"]
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody watches what goes into the module or comes out of it, or its gradients."""
    return hooked(module.__dict__)
