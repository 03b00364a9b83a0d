"""What a step does with the closure it may be given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def loss_of(closure: Callable[[], Any] | None) -> Any:
    """The closure's loss, computed with gradients, whatever the step runs in; None without one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
