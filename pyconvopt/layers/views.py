"""Several views of each image in evaluation, and the mean of what the layers between make of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as torch_functional
from torch import Tensor
from typing_extensions import override

from pyconvopt.data.checks import whole
from pyconvopt.layers.base import Layer


class Views(Layer):
    """In evaluation, views of each image side by side in the batch; in training, the images alone.

    The views are the image, with `flip` its mirror image (left and right exchanged), and with
    `shift` s > 0 each of these moved by s pixels down, up, right and left, edges repeated: 2, 5 or
    10 views, all first views before all second ones. `MeanOfViews` of as many brings the batch back
    to its size; put it before the softmax, so that logits are averaged. Evaluation then costs as
    many times what it did, training costs nothing.

    Args: flip (True), shift (0, pixels).
    Shapes: (N, H, W, C) to (views · N, H, W, C) in evaluation, unchanged in training.

    Errors: ValueError for a shift that is not a whole number from 0 on, or as wide as the image.

    >>> Views().eval()(torch.tensor([[[[1.0, 2.0]]]]))
    tensor([[[[1., 2.]]],
    <BLANKLINE>
    <BLANKLINE>
            [[[2., 1.]]]])

    Source: Krizhevsky et al. 2012, "ImageNet Classification with Deep Convolutional Neural
    Networks", section 4.1 (test-time augmentation).
    """

    ranks = (4,)

    def __init__(
        self,
        flip: bool = True,
        shift: int = 0,
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name, input_shape)
        self.flip = bool(flip)
        self.shift = whole("shift", shift, 0)

    @property
    def count(self) -> int:
        """How many views there are of an image, the image itself among them."""
        return (2 if self.flip else 1) * (5 if self.shift else 1)

    @override
    def call(self, x: Tensor) -> Tensor:
        if self.training or self.count == 1:
            return x
        height, width = x.shape[2:]
        if self.shift >= min(height, width):
            raise ValueError(
                f"{self.name} needs images larger than its shift, got {height}×{width} pixels and "
                f"shift={self.shift}"
            )
        views = [x, x.flip(3)] if self.flip else [x]
        for view in list(views) if self.shift else ():
            wide = torch_functional.pad(view, (self.shift,) * 4, mode="replicate")
            for down, right in ((0, 1), (2, 1), (1, 0), (1, 2)):  # 1 is where the image lies
                top, left = down * self.shift, right * self.shift
                views.append(wide[:, :, top : top + height, left : left + width])
        return torch.cat(views).contiguous(memory_format=torch.channels_last)


class MeanOfViews(Layer):
    """y[n] = Σ_v x[v·N + n] / views in evaluation: `Views`' batch at its own size again.

    In training x as it is.

    Args: views (how many there are: 2 for a flip, 5 for a shift, 10 for both).
    Shapes: (views · N, ...) to (N, ...) in evaluation, unchanged in training.

    Errors: ValueError for fewer than one view, or a batch that is no multiple of them.

    >>> MeanOfViews(2).eval()(torch.tensor([[1.0], [2.0], [3.0], [6.0]]))
    tensor([[2.],
            [4.]])
    """

    def __init__(
        self,
        views: int,
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name, input_shape)
        self.views = whole("views", views)

    @override
    def call(self, x: Tensor) -> Tensor:
        if self.training:
            return x
        size = x.shape[0]  # of any size in an exported program, where len(x) would be a number
        if size % self.views:
            raise ValueError(
                f"{self.name} takes {self.views} views of each image, got a batch of {size}: the "
                f"layer Views of as many must stand in front of it"
            )
        return x.unflatten(0, (self.views, size // self.views)).mean(0)

    @override
    def flops(self) -> int | None:
        return self.elements(self.views)
