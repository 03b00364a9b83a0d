"""Activations as layers of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from pyconvopt import activations, functional
from pyconvopt.layers.base import Layer

# Where an axis of an N, H, W, C array lies in the N, C, H, W tensor.
IMAGE_AXES = (0, 2, 3, 1)


class Activation(Layer):
    """An activation by name or function, as a layer: Activation('tanh').

    >>> Activation('relu')(torch.tensor([[-1.0, 1.0]]))
    tensor([[0., 1.]])
    """

    def __init__(
        self,
        activation: Any,
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name, input_shape)
        self.activation = activations.get(activation)

    @override
    def call(self, x: Tensor, logits: bool = False) -> Tensor:
        return x if logits else self.activation(x)

    @override
    def flops(self) -> int | None:
        return self.elements()


class ReLU(Layer):
    """x where x >= threshold, negative_slope · (x - threshold) below, at most max_value.

    Args: max_value (None), negative_slope (0), threshold (0).

    >>> ReLU(max_value=6.0)(torch.tensor([[-1.0, 3.0, 9.0]]))
    tensor([[0., 3., 6.]])
    """

    def __init__(
        self,
        max_value: float | None = None,
        negative_slope: float = 0.0,
        threshold: float = 0.0,
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name, input_shape)
        if max_value is not None and max_value < 0:
            raise ValueError(f"max_value must be 0 or more, got {max_value}")
        self.max_value = max_value
        self.negative_slope = negative_slope
        self.threshold = threshold

    @override
    def call(self, x: Tensor) -> Tensor:
        if self.threshold or self.negative_slope:
            below = self.negative_slope * (x - self.threshold)
            y = torch.where(x >= self.threshold, x, below)
        else:
            y = functional.relu(x)
        return y if self.max_value is None else y.clamp(max=self.max_value)

    @override
    def flops(self) -> int | None:
        return self.elements()


class Softmax(Layer):
    """exp(x) / Σ exp(x) over one axis of the array (default the last: the channels).

    >>> Softmax()(torch.zeros(1, 2))
    tensor([[0.5000, 0.5000]])
    """

    def __init__(
        self,
        axis: int = -1,
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name, input_shape)
        self.axis = axis

    @property
    @override
    def output_activation(self) -> str | None:
        return "softmax" if self.axis == -1 else None

    @override
    def call(self, x: Tensor, logits: bool = False) -> Tensor:
        if logits:
            return x
        return torch.softmax(x, dim=IMAGE_AXES[self.axis] if x.dim() == 4 else self.axis)

    @override
    def flops(self) -> int | None:
        return self.elements(3)
