"""What stands between the last map of a frozen model and its answer, as convolutions of a sequence.

The mean over a map is a depthwise convolution whose filter is as large as the map; a dense layer is a 1×1
convolution of images of one pixel, which are the flattened maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import functional, plans
from ..autograd.norm import NAMES
from ..functional.gate import activate
from .frozen import take, vector
from .operations import DENSE, FLATTEN, Operation

if TYPE_CHECKING:
    from .fusion import Chain

LARGEST = 1 << 22
"""Elements of a dense layer's weight: more take so long to read that a copy is not worth its memory."""
ONE_PIXEL = ((1, 1), (0, 0), (1, 1))
"""Stride, padding and dilation where there is but one place for the filter."""


@dataclass
class FrozenAverage:
    """The mean over the map, ``mean((2, 3))`` or a pool to one pixel."""

    first: Operation
    extra: Sequence[Any] = ()

    def otherwise(self, x: Tensor, _: None = None) -> Tensor:
        """The mean of any tensor."""
        return self.first.bind(x)

    def arguments(self, size: torch.Size) -> tuple[Any, ...] | None:
        """What a sequence takes for inputs of that size; None where no kernel has such a filter."""
        if len(size) != 4:
            return None
        _, channels, height, width = size
        weight = torch.full((1,), 1 / (height * width)).expand(channels, 1, height, width)
        kernel, _ = plans.own_kernel("forward", size, weight.shape, (1, 1, 0, 0, 1, 1, channels))
        if kernel == plans.REFERENCE:
            return None
        return weight.numpy(), None, *ONE_PIXEL, channels, 0, False, False

    def shared(self) -> list[Tensor]:
        """None."""
        return []


@dataclass
class FrozenDense:
    """A dense layer with its activation, of vectors or of maps that are flattened first."""

    chain: Chain
    extra: Sequence[Any] = ()
    turned: dict[torch.Size, Tensor] = field(default_factory=dict)
    """By the map's size without the batch: the weight with its columns in the order of the map's memory."""

    @property
    def flattens(self) -> bool:
        """Whether maps are taken."""
        return self.chain.first.kind == FLATTEN

    def otherwise(self, x: Tensor, _: None = None, *extra: Any) -> Tensor:
        """The layer of any tensor."""
        y = functional.linear(torch.flatten(x, 1) if self.flattens else x, *self.bound(extra))
        return activate(y, self.chain.activation, in_place=True)

    def bound(self, extra: Sequence[Any]) -> tuple[Tensor, Tensor | None]:
        """Weight and bias."""
        layer = self.chain.rest[DENSE] if self.flattens else self.chain.first
        return layer.bind(*extra)

    def arguments(self, size: torch.Size) -> tuple[Any, ...] | None:
        """What a sequence takes for inputs of that size; None for what the kernels do not take."""
        weight, bias = self.bound(self.extra)
        fits = size[1:].numel() == weight.shape[1] and (self.flattens or len(size) == 2)
        if not (fits and take(weight, bias)) or weight.numel() > LARGEST:
            return None
        if size[1:] not in self.turned:
            self.turned[size[1:]] = columns_as_in_memory(weight.detach(), size[1:])
        activation = NAMES.index(self.chain.activation)
        weight = self.turned[size[1:]]
        return weight.numpy(), vector(bias), *ONE_PIXEL, 1, activation, False, True

    def shared(self) -> list[Tensor]:
        """Weight and bias."""
        weight, bias = self.bound(self.extra)
        return [weight] if bias is None else [weight, bias]


def columns_as_in_memory(weight: Tensor, image: torch.Size) -> Tensor:
    """A dense layer's weight (K, C·H·W) as that of a 1×1 convolution of channels_last maps, each one pixel.

    >>> import torch
    >>> columns_as_in_memory(torch.arange(8.0)[None], torch.Size((2, 2, 2))).flatten()
    tensor([0., 4., 1., 5., 2., 6., 3., 7.])
    """
    if len(image) == 3:
        weight = weight.unflatten(1, image).permute(0, 2, 3, 1).flatten(1)
    return weight[:, :, None, None]
