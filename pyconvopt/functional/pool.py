"""Pooling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import explanation
from ..autograd.pool import AveragePoolFunction, MaxPool2x2Function, MaxPoolFunction, Windows
from ..autograd.recompute import UnstoredMap, stored
from ..memory import is_channels_last, memory_format
from ..plans import TORCH
from .gate import Size, needs_gradient, pair, takes, whole

ONE_BYTE = "one byte an output instead of an index"
TWO_BY_TWO = Windows((2, 2), (2, 2), (0, 0))

# Of a max-pool on a kernel of this library: its positions are bytes, and in backward each pixel looks
# at all windows that cover it.
LARGEST_WINDOW, MOST_OVERLAPPING = 256, 9

# With fewer channels than this max-pooling and the gradient of average pooling are faster on torch's kernels.
FEWEST_CHANNELS = 32


def max_pool2d(
    input: Tensor | UnstoredMap,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Largest value of each window; arguments, shapes and errors as ``torch.nn.functional.max_pool2d``.

    On channels_last maps windows of up to 256 pixels, of which at most nine overlap, run on kernels that
    remember one byte an output instead of an int64 index, from 32 channels on, 2×2 windows with stride 2
    always (on a GPU these alone, in any format); everything else is torch's.

    >>> import torch, pyconvopt as pco
    >>> pco.functional.max_pool2d(torch.arange(16.0).view(1, 1, 4, 4), 2).flatten()
    tensor([ 5.,  7., 13., 15.])
    """
    x = input.recipe.input if isinstance(input, UnstoredMap) else input
    own = None
    if takes(x) and pair(dilation) == (1, 1) and not return_indices:
        fewest = 1 if isinstance(input, UnstoredMap) else FEWEST_CHANNELS
        own = _own_pool(x, kernel_size, stride, padding, ceil_mode, fewest)
    if own is None:
        rest: Any = (stride, padding, dilation, ceil_mode, return_indices)
        y = F.max_pool2d(stored(input), kernel_size, *rest)
        kernel, reason = TORCH, "windows, channels, dtype or memory format that no kernel is for"
    elif isinstance(input, UnstoredMap):
        y = MaxPoolFunction.apply(*input, *own)
        kernel, reason = "max_pool", "batch norm of its input in the same pass; " + ONE_BYTE
    elif own[0] == TWO_BY_TWO and own[1] == _halves(x):
        y = MaxPool2x2Function.apply(x.contiguous(memory_format=memory_format(x)))
        kernel, reason = "max_pool2x2", ONE_BYTE
    else:
        y = MaxPoolFunction.apply(x.contiguous(memory_format=torch.channels_last), None, *own)
        kernel, reason = "max_pool", ONE_BYTE
    if explanation.listening() and isinstance(y, Tensor):
        for pass_ in ("forward", "backward"):
            explanation.note("max_pool2d", pass_, kernel, reason, x.numel(), [x, y])
    return y


def _halves(x: Tensor) -> tuple[int, int]:
    """The size behind a pool over 2×2 pixels."""
    return x.shape[2] // 2, x.shape[3] // 2


def _own_pool(
    x: Tensor,
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    ceil_mode: bool,
    fewest_channels: int,
) -> tuple[Windows, tuple[int, int]] | None:
    """The windows of a max-pool and the size of its result; None where they are torch's."""
    sides = pair(kernel_size), _strides(stride, kernel_size), pair(padding)
    if x.dim() != 4 or not x.numel() or None in sides or not isinstance(ceil_mode, bool):
        return None
    windows = Windows(*sides)
    (height, width), (down, right), borders = windows
    if min(height, width, down, right) < 1 or min(borders) < 0:
        return None
    overlapping = -(-height // down) * -(-width // right)
    if overlapping > MOST_OVERLAPPING or height * width > LARGEST_WINDOW:
        return None
    axes = [*zip(x.shape[2:], *windows, strict=True)]
    rows, columns = (_outputs(*axis, ceil_mode) for axis in axes)
    if min(rows, columns) < 1 or any(border > side // 2 for _, side, _, border in axes):
        return None
    two_by_two = windows == TWO_BY_TWO and (rows, columns) == _halves(x)
    if x.is_cuda:
        return (windows, (rows, columns)) if two_by_two else None
    enough = two_by_two or x.shape[1] >= fewest_channels
    return (windows, (rows, columns)) if enough and is_channels_last(x) else None


def _outputs(size: int, window: int, stride: int, padding: int, ceil_mode: bool) -> int:
    """Windows along one axis, as torch counts them.

    >>> _outputs(6, 3, 2, 0, False), _outputs(6, 3, 2, 0, True), _outputs(5, 2, 2, 1, True)
    (2, 3, 3)
    """
    room = size + 2 * padding - window
    count = (room + (stride - 1 if ceil_mode else 0)) // stride + 1
    begins_outside = ceil_mode and (count - 1) * stride >= size + padding
    return count - 1 if begins_outside else count


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
