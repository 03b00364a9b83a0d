"""Where a sliding window lands: Keras' 'valid' and 'same' padding, sizes and offsets.

'valid' keeps only windows that lie wholly inside. 'same' gives ceil(size / stride) outputs, and
where the padding needed is odd, the extra row or column goes to the end (bottom, right): torch
pads both sides alike, so that case pads first and convolves after.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch.nn.functional as torch_functional
from torch import Tensor

from pyconvopt import registry
from pyconvopt.autograd.recompute import UnstoredMap, stored


def padding_name(padding: str) -> str:
    """'valid' or 'same', or an error that offers the nearest."""
    return registry.find("padding", {"valid": "valid", "same": "same"}, str(padding))


def output_size(
    size: int | None, window: int, stride: int, padding: str, dilation: int = 1
) -> int | None:
    """The number of windows along one axis; None for an axis of unknown size.

    >>> output_size(28, 3, 1, 'valid'), output_size(28, 3, 2, 'same')
    (26, 14)
    """
    if size is None:
        return None
    reach = dilation * (window - 1) + 1
    return -(-size // stride) if padding == "same" else (size - reach) // stride + 1


@lru_cache(maxsize=4096)
def same_padding(size: int, window: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """(before, after) along one axis.

    >>> same_padding(28, 3, 1), same_padding(28, 3, 2)
    ((1, 1), (0, 1))
    """
    reach = dilation * (window - 1) + 1
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


def pad_same(
    x: Tensor | UnstoredMap,
    window: tuple[int, int],
    strides: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
    value: float = 0.0,
    largest: tuple[int, int] | None = None,
) -> tuple[Any, tuple[int, int]]:
    """The input, padded if need be, and the symmetric padding that is left to the kernel.

    `largest` bounds what the kernel can pad by itself (pooling: half its window).
    """
    top, bottom = same_padding(x.shape[2], window[0], strides[0], dilation[0])
    left, right = same_padding(x.shape[3], window[1], strides[1], dilation[1])
    fits = largest is None or (top <= largest[0] and left <= largest[1])
    if top == bottom and left == right and fits:
        return x, (top, left)
    return torch_functional.pad(stored(x), (left, right, top, bottom), value=value), (0, 0)


def transposed_crop(
    reach: int, stride: int, padding: str, output_padding: int | None
) -> tuple[int, int]:
    """What Keras cuts off a transposed convolution's full map, s·(H - 1) + reach, along one axis.

    (before, after); below 0: so many are added.

    >>> transposed_crop(3, 2, 'same', None), transposed_crop(2, 3, 'valid', None)
    ((0, 1), (0, -1))
    """
    if padding == "valid":
        return 0, -(max(reach, stride) - reach if output_padding is None else output_padding)
    beyond = stride if output_padding is None else reach % 2 + output_padding
    kept = reach + beyond - 2
    before = reach - 1 - min(kept - kept // 2, reach - 1)
    return before, reach - beyond - before


def require_room(
    name: str, what: str, input_shape: tuple[int | None, ...], window: tuple[int, int], padding: str
) -> None:
    """Refuse an image smaller than the window."""
    height, width = input_shape[1:3]
    too_small = any(
        size is not None and (size < reach if padding == "valid" else size < 1)
        for size, reach in zip((height, width), window, strict=True)
    )
    if too_small:
        raise ValueError(
            f"{name}: an image of {height}×{width} is too small for a {what} of "
            f"{window[0]}×{window[1]} with padding={padding!r}; it needs at least that size"
        )
