"""Which tensors this library's kernels take, and the small questions every function asks first."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

Activation = Callable[[Tensor], Tensor] | str | None
Size = int | tuple[int, ...]

_functorch_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)


def takes(x: Tensor) -> bool:
    """Whether `x` is a tensor for this library's kernels: float32, dense layout, CPU, plain autograd.

    Inside ``torch.compile`` and ``torch.export`` none is: the compiler sees torch's own operations
    (and ``backend="pyconvopt"`` joins those).
    """
    return (
        x.dtype is torch.float32
        and x.is_cpu
        and x.layout is torch.strided
        and not torch.is_autocast_enabled("cpu")
        and not _functorch_active()
        and forward_ad._current_level < 0
        and not torch.compiler.is_compiling()
    )


def is_channels_last(x: Tensor) -> bool:
    """Whether torch would take the 4-D tensor `x` to be in channels_last order (its stride rule)."""
    _, channels, height, width = x.shape
    sn, sc, sh, sw = x.stride()
    return (
        sc > 0
        and sw >= sc * channels
        and sh >= sw * width
        and sn >= sh * height
        and sh * height != sc
    )


def dense(x: Tensor, channels: bool = False) -> Tensor | None:
    """The tensor if its memory has no gaps (and, for whole channels, is channels_last)."""
    if x.numel() == 0 or (channels and x.dim() != 4):
        return None
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x
    return x if x.is_contiguous() and not channels else None


def pair(value: Size) -> tuple[int, int]:
    """Height and width from one number or two."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def activate(y: Tensor, activation: Activation) -> Tensor:
    """An activation that no kernel has fused."""
    if activation is None:
        return y
    if activation == "relu":
        return torch.relu(y)
    if callable(activation):
        return activation(y)
    raise ValueError(f"activation must be None, 'relu' or a callable, got {activation!r}")


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether a call on these tensors has to be recorded for backward."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
