"""The order of a map's elements in memory."""

from __future__ import annotations

import torch
from torch import Tensor


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


def memory_format(x: Tensor) -> torch.memory_format:
    """The format in which the kernels take the dense tensor `x`, and give their results.

    Off the GPU maps are channels_last alone.
    """
    if x.dim() == 4 and (not x.is_cuda or is_channels_last(x)):
        return torch.channels_last
    return torch.contiguous_format
