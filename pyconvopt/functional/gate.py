"""Which tensors this library's kernels take, and the small questions every function asks first."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from operator import index
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import cuda
from ..autograd.norm import ACTIVATIONS, NAMES

Activation = Callable[[Tensor], Tensor] | str | None
Size = int | tuple[int, ...]

_tracing = torch._C._is_tracing
_functorch_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)


_CUDA_TYPES = (torch.float32, torch.float16, torch.bfloat16)


def suits(x: Tensor) -> bool:
    """Whether `x` is a tensor for this library's kernels, under plain autograd.

    On a CPU float32 without autocast, on a GPU float32, float16 or bfloat16. Inside
    ``torch.compile``, ``torch.export`` and ``torch.jit.trace`` none is: the compiler sees torch's
    own operations (and ``backend="pyconvopt"`` joins those).
    """
    if not isinstance(x, Tensor):
        return False
    if x.is_cuda:
        fits = x.dtype in _CUDA_TYPES
    else:
        fits = x.dtype is torch.float32 and x.is_cpu and not torch.is_autocast_enabled("cpu")
    return fits and forward_ad._current_level < 0 and plain(x)


def plain(x: Tensor) -> bool:
    """Whether `x` is dense in form, and no compiler, tracer or ``torch.func`` transform looks on.

    A tracer may also stand for a size by a symbol (``make_fx(tracing_mode="symbolic")``).
    """
    return (
        x.layout is torch.strided
        and not x._has_symbolic_sizes_strides
        and not _functorch_active()
        and not torch.compiler.is_compiling()
        and not _tracing()
    )


def takes(x: Tensor) -> bool:
    """Whether the kernels take `x`; for a CUDA tensor also whether the plug-in runs (`cuda.ready`)."""
    return suits(x) and (not x.is_cuda or cuda.ready(x))


def dense(x: Tensor, channels: bool = False) -> Tensor | None:
    """The tensor if its memory has no gaps (and, for whole channels on a CPU, is channels_last)."""
    if x.numel() == 0 or (channels and x.dim() != 4):
        return None
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x
    return x if x.is_contiguous() and (x.is_cuda or not channels) else None


def pair(value: Any) -> Any:
    """Height and width from one whole number or two; None for what is torch's to refuse."""
    if type(value) is int:
        return value, value
    if type(value) in (tuple, list) and len(value) == 2:
        height, width = value
        if type(height) is type(width) is int:
            return height, width
    several = isinstance(value, tuple | list)
    numbers = [whole(each) for each in value] if several else [whole(value)]
    return (numbers[0], numbers[-1]) if len(numbers) in (1, 2) and None not in numbers else None


def whole(value: Any) -> int | None:
    """The number that torch takes the value for, numpy's and tensors' too; None where it refuses it."""
    if type(value) is int:
        return value
    if isinstance(value, bool) or not isinstance(value, Integral | Tensor):
        return None
    try:
        return index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def activate(y: Tensor, activation: Activation, in_place: bool = False) -> Tensor:
    """An activation that no kernel has fused."""
    if callable(activation):
        return activation(y)
    if activation in ACTIVATIONS:
        return ACTIVATIONS[activation](y, in_place)
    known = ", ".join(map(repr, NAMES))
    raise ValueError(f"activation must be {known} or a callable, got {activation!r}")


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether a call on these tensors has to be recorded for backward."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
