"""When a gradient is made of torch's own operations instead of by a kernel."""

from __future__ import annotations

import torch
from torch import Tensor

_QUESTIONS = [
    question
    for name in ("is_batchedtensor", "is_legacy_batchedtensor")
    if (question := getattr(torch._C._functorch, name, None)) is not None
]


def is_batched(g: Tensor) -> bool:
    """Whether it stands for a batch of gradients (``is_grads_batched=True``)."""
    return any(question(g) for question in _QUESTIONS)


def by_reference(g: Tensor) -> bool:
    """Whether a gradient of this one is to be recorded, or it is a batch of them."""
    return torch.is_grad_enabled() or is_batched(g)
