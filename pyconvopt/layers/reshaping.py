"""Layers that move, add or leave out values: padding, cropping, enlarging, reshaping, rescaling."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch.nn.functional as torch_functional
from torch import Tensor
from typing_extensions import override

from pyconvopt import registry
from pyconvopt.data.checks import whole
from pyconvopt.layers.base import (
    Layer,
    Shape,
    channels_last_only,
    number,
    pair,
    product,
    to_array_axes,
    to_torch_axes,
)

Border = tuple[tuple[int, int], tuple[int, int]]


def border(value: Any, name: str) -> Border:
    """((top, bottom), (left, right)) from one number, a height and a width, or two pairs.

    >>> border(1, 'padding'), border(((0, 1), (2, 3)), 'padding')
    (((1, 1), (1, 1)), ((0, 1), (2, 3)))
    """
    if not isinstance(value, Iterable):
        return pair(value, name, 0), pair(value, name, 0)
    sides = tuple(value)
    if len(sides) != 2:
        raise ValueError(f"{name} must be a number, two, or two pairs of numbers, got {value!r}")
    return pair(sides[0], name, 0), pair(sides[1], name, 0)


def resized(shape: Shape, change: Callable[[int, Any], int], by: Sequence[Any]) -> Shape:
    """An image's shape with height and width changed, each by its own; an unknown size stays so.

    >>> resized((None, 4, None, 3), lambda size, factor: size * factor, (2, 5))
    (None, 8, None, 3)
    """
    batch, height, width, channels = shape
    sizes = [
        None if size is None else change(size, each)
        for size, each in zip((height, width), by, strict=True)
    ]
    return (batch, *sizes, channels)


class ZeroPadding2D(Layer):
    """Rows and columns of zeros around each image.

    Args: padding (1): a number, (height, width), or ((top, bottom), (left, right)).
    Shapes: (N, H, W, C) to (N, H + top + bottom, W + left + right, C).

    >>> import torch
    >>> ZeroPadding2D(((0, 0), (1, 0)))(torch.ones(1, 1, 1, 2))
    tensor([[[[0., 1., 1.]]]])
    """

    ranks = (4,)

    def __init__(
        self,
        padding: Any = (1, 1),
        data_format: str | None = None,
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name, input_shape)
        channels_last_only(data_format)
        self.padding = border(padding, "padding")

    @override
    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return resized(input_shape, lambda size, sides: size + sum(sides), self.padding)

    @override
    def call(self, x: Tensor) -> Tensor:
        (top, bottom), (left, right) = self.padding
        return torch_functional.pad(x, (left, right, top, bottom))


class Cropping2D(Layer):
    """Each image without its outer rows and columns.

    Args: cropping (0): a number, (height, width), or ((top, bottom), (left, right)).
    Shapes: (N, H, W, C) to (N, H - top - bottom, W - left - right, C).
    Errors: ValueError if nothing would be left.

    >>> import torch
    >>> Cropping2D((0, 1))(torch.arange(3.0).view(1, 1, 1, 3))
    tensor([[[[1.]]]])
    """

    ranks = (4,)

    def __init__(
        self,
        cropping: Any = ((0, 0), (0, 0)),
        data_format: str | None = None,
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name, input_shape)
        channels_last_only(data_format)
        self.cropping = border(cropping, "cropping")

    @override
    def compute_output_shape(self, input_shape: Shape) -> Shape:
        kept = resized(input_shape, lambda size, sides: size - sum(sides), self.cropping)
        if any(size is not None and size < 1 for size in kept[1:3]):
            height, width = input_shape[1:3]
            raise ValueError(
                f"{self.name}: cropping {self.cropping} leaves nothing of {height}×{width}"
            )
        return kept

    @override
    def call(self, x: Tensor) -> Tensor:
        (top, bottom), (left, right) = self.cropping
        return x[:, :, top : x.shape[2] - bottom, left : x.shape[3] - right]


class UpSampling2D(Layer):
    """Images enlarged by whole factors.

    Args: size (2), interpolation ('nearest': pixels repeated; 'bilinear').
    Shapes: (N, H, W, C) to (N, H · size[0], W · size[1], C).

    >>> import torch
    >>> UpSampling2D((1, 2))(torch.tensor([[[[1.0, 2.0]]]]))
    tensor([[[[1., 1., 2., 2.]]]])
    """

    ranks = (4,)

    def __init__(
        self,
        size: int | Sequence[int] = (2, 2),
        data_format: str | None = None,
        interpolation: str = "nearest",
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name, input_shape)
        channels_last_only(data_format)
        self.size = pair(size, "size")
        kinds = {"nearest": "nearest", "bilinear": "bilinear"}
        self.interpolation = registry.find("interpolation", kinds, interpolation)

    @override
    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return resized(input_shape, lambda size, factor: size * factor, self.size)

    @override
    def call(self, x: Tensor) -> Tensor:
        size = (x.shape[2] * self.size[0], x.shape[3] * self.size[1])
        corners = None if self.interpolation == "nearest" else False
        return torch_functional.interpolate(x, size, mode=self.interpolation, align_corners=corners)


class Reshape(Layer):
    """Each sample in another shape, values in the order of the N, H, W, C array.

    Args: target_shape, without the batch; one size may be -1.
    Errors: ValueError for a shape of another number of values.

    >>> layer = Reshape((2, -1))
    >>> layer.build((None, 12))
    >>> layer.output_shape
    (None, 2, 6)
    """

    def __init__(
        self,
        target_shape: Sequence[int],
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name, input_shape)
        sizes = target_shape if isinstance(target_shape, Iterable) else (target_shape,)
        try:
            self.target_shape = tuple(whole("size", size, -1) for size in sizes)
        except ValueError:
            self.target_shape = (0,)
        if self.target_shape.count(-1) > 1 or 0 in self.target_shape:
            raise ValueError(f"target_shape must hold sizes, at most one -1, got {target_shape!r}")

    @override
    def compute_output_shape(self, input_shape: Shape) -> Shape:
        values, given = product(input_shape[1:]), math.prod(s for s in self.target_shape if s != -1)
        if values is None:
            return (None, *[None if size == -1 else size for size in self.target_shape])
        rest, left = divmod(values, given) if given else (0, values)
        if left or (-1 not in self.target_shape and rest != 1):
            raise ValueError(
                f"{self.name} cannot make {self.target_shape} of {values} values a sample"
            )
        return (None, *[rest if size == -1 else size for size in self.target_shape])

    @override
    def call(self, x: Tensor) -> Tensor:
        x = to_array_axes(x)
        # Not the target itself: its -1 is unclear of an empty batch.
        shape: Any = self.compute_output_shape(tuple(x.shape))
        return to_torch_axes(x.reshape(x.shape[0], *shape[1:]))


class Rescaling(Layer):
    """x · scale + offset: pixels into the range a network likes, Rescaling(1 / 255).

    >>> import torch
    >>> Rescaling(0.5, offset=-1.0)(torch.tensor([[4.0]]))
    tensor([[1.]])
    """

    def __init__(
        self,
        scale: float,
        offset: float = 0.0,
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name, input_shape)
        self.scale = number("scale", scale)
        self.offset = number("offset", offset)

    @override
    def call(self, x: Tensor) -> Tensor:
        return x * self.scale + self.offset

    @override
    def flops(self) -> int | None:
        return self.elements(2)
