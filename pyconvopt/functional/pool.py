"""Pooling."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .. import explanation
from ..autograd.pool import MaxPool2x2Function
from ..memory import is_channels_last, memory_format
from ..ops import TORCH
from .gate import Size, pair, takes


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
        and (
            stride is None or (not isinstance(stride, int) and not stride) or pair(stride) == (2, 2)
        )
        and pair(padding) == (0, 0)
        and pair(dilation) == (1, 1)
        and not return_indices
        and input.dim() == 4
        and (input.is_cuda or is_channels_last(input))
        and input.numel()
        and min(input.shape[2:]) >= 2
        and not (ceil_mode and (input.shape[2] % 2 or input.shape[3] % 2))
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
