"""Images with a rectangle erased, and the rectangles themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from pyconvopt.data.augment.geometry import share
from pyconvopt.data.augment.pipeline import Transform
from pyconvopt.data.checks import whole


def rectangles(top: Tensor, bottom: Tensor, left: Tensor, right: Tensor, images: Tensor) -> Tensor:
    """Masks (N, 1, H, W), true from top to bottom - 1 and left to right - 1 of each image."""
    rows = torch.arange(images.shape[2])
    columns = torch.arange(images.shape[3])
    down = (rows >= top[:, None]) & (rows < bottom[:, None])
    across = (columns >= left[:, None]) & (columns < right[:, None])
    return down[:, None, :, None] & across[:, None, None, :]


@dataclass(frozen=True)
class RandomErasing(Transform):
    """With probability p a rectangle of each image is set to `value`.

    Its area is a share of the image's, uniform in `scale`, its height over its width in `ratio`,
    uniform in the logarithm; a side longer than the image's is cut to it.

    Args: p (0.5), scale (0.02, 0.33), ratio (0.3, 3.3), value (0).

    >>> images = torch.ones(4, 1, 8, 8)
    >>> bool((RandomErasing(p=1.0)(images, torch.rand(4, 5)).sum((1, 2, 3)) < 64).all())
    True

    Source: Zhong et al. 2020, "Random Erasing Data Augmentation".
    """

    p: float = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    value: float = 0.0
    draws = 5

    def __post_init__(self) -> None:
        share(self.p, "p")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be two shares in order, got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be two positive numbers in order, got {self.ratio}")

    @override
    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        height, width = images.shape[2:]
        chosen, size, shape, down, across = numbers.unbind(1)
        area = (self.scale[0] + size * (self.scale[1] - self.scale[0])) * (height * width)
        low, high = map(math.log, self.ratio)
        ratio = torch.exp(low + shape * (high - low))
        tall = (area * ratio).sqrt().round().clamp(1, height)
        wide = (area / ratio).sqrt().round().clamp(1, width)
        # An image that is not chosen gets a rectangle of no height.
        tall = torch.where(chosen < self.p, tall, 0)
        top = (down * (height - tall + 1)).floor()
        left = (across * (width - wide + 1)).floor()
        mask = rectangles(top, top + tall, left, left + wide, images)
        return images.masked_fill(mask, self.value)


@dataclass(frozen=True)
class Cutout(Transform):
    """A square of `size` (8) pixels, its middle anywhere in the image, set to `value` (0).

    >>> Cutout(2)(torch.ones(1, 1, 3, 3), torch.tensor([[0.0, 0.5]]))
    tensor([[[[0., 0., 1.],
              [1., 1., 1.],
              [1., 1., 1.]]]])

    Source: DeVries and Taylor 2017, "Improved Regularization of Convolutional Neural Networks with
    Cutout".
    """

    size: int = 8
    value: float = 0.0
    draws = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", whole("size", self.size))

    @override
    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        middle: Any = (numbers * torch.tensor(images.shape[2:])).floor() - self.size // 2
        top, left = middle.unbind(1)
        mask = rectangles(top, top + self.size, left, left + self.size, images)
        return images.masked_fill(mask, self.value)
