"""Pooling: the largest or the mean value of each window, or of the whole image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as torch_functional
from torch import Tensor
from typing_extensions import override

from pyconvopt import functional
from pyconvopt.autograd.recompute import UnstoredMap
from pyconvopt.layers import windows
from pyconvopt.layers.base import Layer, Shape, channels_last_only, pair, product


class Pooling2D(Layer):
    """What the two window poolings share: the window, its strides and the output's shape."""

    ranks = (4,)

    def __init__(
        self,
        pool_size: int | Sequence[int] = (2, 2),
        strides: int | Sequence[int] | None = None,
        padding: str = "valid",
        data_format: str | None = None,
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name, input_shape)
        channels_last_only(data_format)
        self.pool_size = pair(pool_size, "pool_size")
        self.strides = self.pool_size if strides is None else pair(strides, "strides")
        self.padding = windows.padding_name(padding)

    @override
    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, channels = input_shape
        windows.require_room(self.name, "window", input_shape, self.pool_size, self.padding)
        sizes = [
            windows.output_size(size, window, stride, self.padding)
            for size, window, stride in zip(
                (height, width), self.pool_size, self.strides, strict=True
            )
        ]
        return (batch, *sizes, channels)

    @override
    def flops(self) -> int | None:
        return self.elements(self.pool_size[0] * self.pool_size[1])

    def pad(self, x: Tensor | UnstoredMap, value: float) -> tuple[Any, tuple[int, int]]:
        """The input, padded if torch's pooling cannot, and the padding left to it."""
        if self.padding == "valid":
            return x, (0, 0)
        # torch's pooling pads by at most half its window.
        half = (self.pool_size[0] // 2, self.pool_size[1] // 2)
        return windows.pad_same(x, self.pool_size, self.strides, (1, 1), value, half)


class MaxPooling2D(Pooling2D):
    """The largest value of each window; padding counts as -∞.

    Shapes: (N, H, W, C) to (N, H', W', C), H' as for Conv2D.
    Args: pool_size (2), strides (None: pool_size), padding ('valid' or 'same').
    Errors: ValueError for an image smaller than the window.

    >>> import torch
    >>> MaxPooling2D((2, 2))(torch.arange(16.0).reshape(1, 1, 4, 4)).flatten()
    tensor([ 5.,  7., 13., 15.])
    """

    @override
    def call(self, x: Tensor | UnstoredMap) -> Tensor:
        padded, padding = self.pad(x, float("-inf"))
        return functional.max_pool2d(padded, self.pool_size, self.strides, padding)


class AveragePooling2D(Pooling2D):
    """The mean of each window; padding is left out of the mean.

    Shapes: (N, H, W, C) to (N, H', W', C), H' as for Conv2D.
    Args: pool_size (2), strides (None: pool_size), padding ('valid' or 'same').
    Errors: ValueError for an image smaller than the window.

    >>> import torch
    >>> AveragePooling2D((2, 2))(torch.arange(16.0).reshape(1, 1, 4, 4)).flatten()
    tensor([ 2.5000,  4.5000, 10.5000, 12.5000])
    """

    @override
    def call(self, x: Tensor) -> Tensor:
        padded, padding = self.pad(x, 0.0)
        mean = functional.avg_pool2d(
            padded, self.pool_size, self.strides, padding, count_include_pad=False
        )
        if padded is x:
            return mean
        # Padded beforehand, so the zeros were counted: divide by the share of real pixels.
        inside, _ = self.pad(x.new_ones(1, 1, *x.shape[2:]), 0.0)
        return mean / torch_functional.avg_pool2d(inside, self.pool_size, self.strides)


class GlobalPooling2D(Layer):
    """What the two poolings of whole images share."""

    ranks = (4,)

    def __init__(
        self,
        data_format: str | None = None,
        keepdims: bool = False,
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name, input_shape)
        channels_last_only(data_format)
        self.keepdims = keepdims

    @override
    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, _, _, channels = input_shape
        return (batch, 1, 1, channels) if self.keepdims else (batch, channels)

    @override
    def flops(self) -> int | None:
        return product((self.input_shape or (None, None))[1:])


class GlobalAveragePooling2D(GlobalPooling2D):
    """The mean of each channel over the image: (N, H, W, C) to (N, C), or (N, 1, 1, C).

    Args: keepdims (False).

    >>> import torch
    >>> GlobalAveragePooling2D()(torch.ones(2, 3, 4, 4)).shape
    torch.Size([2, 3])
    """

    @override
    def call(self, x: Tensor) -> Tensor:
        mean = functional.adaptive_avg_pool2d(x, 1)
        return mean if self.keepdims else mean.flatten(1)


class GlobalMaxPooling2D(GlobalPooling2D):
    """The largest value of each channel over the image: (N, H, W, C) to (N, C), or (N, 1, 1, C).

    Args: keepdims (False).

    >>> import torch
    >>> GlobalMaxPooling2D()(torch.arange(4.0).view(1, 1, 2, 2))
    tensor([[3.]])
    """

    @override
    def call(self, x: Tensor) -> Tensor:
        return x.amax(dim=(2, 3), keepdim=self.keepdims)
