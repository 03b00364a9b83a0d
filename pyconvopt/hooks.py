"""Whether somebody watches a module, or has given it another forward: such a module is run alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def hooked(state: Mapping[str, Any]) -> bool:
    """Whether there are hooks, or a forward of its own, in a module's `__dict__`."""
    return bool(
        "forward" in state
        or state["_forward_hooks"]
        or state["_forward_pre_hooks"]
        or state["_backward_hooks"]
        or state["_backward_pre_hooks"]
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody watches what goes into the module or comes out of it, or its gradients."""
    return hooked(module.__dict__)
