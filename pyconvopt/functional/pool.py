"""Pooling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .. import explanation
from ..autograd.pool import AveragePoolFunction, MaxPool2x2Function
from ..memory import is_channels_last, memory_format
from ..plans import TORCH
from .gate import Size, needs_gradient, pair, takes, whole

# A gradient of average pooling with fewer channels than this is faster on torch's kernel.
FEWEST_CHANNELS = 32


def max_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Largest value of each window; arguments, shapes and errors as ``torch.nn.functional.max_pool2d``.

    2×2 windows with stride 2 on channels_last maps (on a GPU: any) run on a kernel that remembers one byte an
    output instead of an int64 index; everything else is torch's.

    >>> import torch, pyconvopt as pco
    >>> pco.functional.max_pool2d(torch.arange(16.0).view(1, 1, 4, 4), 2).flatten()
    tensor([ 5.,  7., 13., 15.])
    """
    if (
        pair(kernel_size) == (2, 2)
        and _strides(stride, kernel_size) == (2, 2)
        and pair(padding) == (0, 0)
        and pair(dilation) == (1, 1)
        and not return_indices
        and input.dim() == 4
        and (input.is_cuda or is_channels_last(input))
        and input.numel()
        and min(input.shape[2:]) >= 2
        and (
            ceil_mode is False
            or (ceil_mode is True and not (input.shape[2] % 2 or input.shape[3] % 2))
        )
        and takes(input)
    ):
        y = MaxPool2x2Function.apply(input.contiguous(memory_format=memory_format(input)))
        kernel, reason = "max_pool2x2", "2x2 windows: one byte an output instead of an index"
    else:
        windows: Any = (kernel_size, stride, padding, dilation, ceil_mode, return_indices)
        y = F.max_pool2d(input, *windows)
        kernel, reason = TORCH, "not a 2x2 window on a channels_last float32 map"
    if explanation.listening() and isinstance(y, Tensor):
        for pass_ in ("forward", "backward"):
            explanation.note("max_pool2d", pass_, kernel, reason, input.numel(), [input, y])
    return y


def avg_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Mean of each window; arguments, shapes and errors as ``torch.nn.functional.avg_pool2d``.

    The forward pass is torch's, at the speed of memory. For channels_last maps of 32 channels or more
    the input is not kept, and the gradient is a kernel of this library: 1.2 to 4 times as fast.

    >>> import torch, pyconvopt as pco
    >>> pco.functional.avg_pool2d(torch.arange(16.0).view(1, 1, 4, 4), 2).flatten()
    tensor([ 2.5000,  4.5000, 10.5000, 12.5000])
    """
    rest: Any = (stride, padding, ceil_mode, count_include_pad, divisor_override)

    def by_torch(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, kernel_size, *rest)

    pairs = pair(kernel_size), _strides(stride, kernel_size), pair(padding)
    divisor = 0 if divisor_override is None else whole(divisor_override)
    windows: tuple[Any, ...] = ()
    if None not in pairs and divisor is not None and divisor >= 0:
        windows = (*(side for each in pairs for side in each), count_include_pad, divisor)
    return _average("avg_pool2d", input, by_torch, windows)


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """Mean of each of `output_size` parts, as ``torch.nn.functional.adaptive_avg_pool2d``.

    The gradient is this library's, as in `avg_pool2d`, where the parts are of one size: the global
    average pool (``output_size=1``) is one.

    >>> import torch, pyconvopt as pco
    >>> pco.functional.adaptive_avg_pool2d(torch.arange(4.0).view(1, 1, 2, 2), 1).item()
    1.5
    """

    def by_torch(x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, output_size)

    windows: tuple[Any, ...] = ()
    if input.dim() == 4 and input.numel():
        given = output_size if isinstance(output_size, tuple | list) else (output_size,) * 2
        map_size = input.shape[2:]
        parts = [n if p is None else whole(p) or 0 for n, p in zip(map_size, given, strict=False)]
        sizes = [n // p for n, p in zip(map_size, parts, strict=False) if p > 0 and n % p == 0]
        if len(given) == len(sizes) == 2:
            windows = (*sizes, *sizes, 0, 0, True, 0)
    return _average("adaptive_avg_pool2d", input, by_torch, windows)


def _strides(stride: Any, kernel_size: Size) -> Any:
    """Those of a pool: where none are given, as long as its windows."""
    given = stride is not None and not (isinstance(stride, tuple | list) and not stride)
    return pair(stride if given else kernel_size)


def _average(
    name: str, input: Tensor, by_torch: Callable[[Tensor], Tensor], windows: tuple[Any, ...]
) -> Tensor:
    """The pool by torch, its gradient by the kernel where there are `windows` that it takes."""
    own = (
        bool(windows)
        and input.dim() == 4
        and input.numel() > 0
        and input.shape[1] >= FEWEST_CHANNELS
        and takes(input)
        and is_channels_last(input)
    )
    gradient = own and needs_gradient(input)
    y = AveragePoolFunction.apply(input, by_torch, windows) if gradient else by_torch(input)
    if explanation.listening():
        backward = (
            ("gather", "each pixel gathers from its windows") if own else (TORCH, "torch's pool")
        )
        speed = "torch's forward pass is at the speed of memory"
        explanation.note(name, "forward", TORCH, speed, input.numel(), [input, y])
        explanation.note(name, "backward", *backward, input.numel(), [input, y])
    return y
