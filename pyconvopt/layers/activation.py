"""Activations as layers of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as torch_functional
from torch import Tensor
from typing_extensions import override

from pyconvopt import activations, constraints, functional, initializers, regularizers
from pyconvopt.data.checks import whole
from pyconvopt.layers.base import Layer, Shape, number

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
        self.max_value = None if max_value is None else number("max_value", max_value, 0)
        self.negative_slope = number("negative_slope", negative_slope, 0)
        self.threshold = number("threshold", threshold)

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
        self.axis = whole("axis", axis, None)
        if self.axis == -1:  # for who is shown logits and wants what follows them
            self.activation = activations.softmax

    @override
    def compute_output_shape(self, input_shape: Shape) -> Shape:
        if not -len(input_shape) <= self.axis < len(input_shape):
            raise ValueError(
                f"{self.name}: axis must be one of the {len(input_shape)} of the input, got {self.axis}"
            )
        return input_shape

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


class LeakyReLU(Layer):
    """x where positive, negative_slope · x elsewhere. Default slope 0.3.

    >>> LeakyReLU(0.5)(torch.tensor([[-2.0, 1.0]]))
    tensor([[-1.,  1.]])

    Source: Maas, Hannun and Ng 2013, "Rectifier Nonlinearities Improve Neural Network Acoustic
    Models".
    """

    def __init__(
        self,
        negative_slope: float = 0.3,
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name, input_shape)
        self.negative_slope = number("negative_slope", negative_slope, 0)

    @override
    def call(self, x: Tensor) -> Tensor:
        return torch_functional.leaky_relu(x, self.negative_slope)

    @override
    def flops(self) -> int | None:
        return self.elements()


class ELU(Layer):
    """x where positive, alpha · (exp(x) - 1) elsewhere. Default alpha 1.

    >>> ELU()(torch.tensor([[1.0, float('-inf')]]))
    tensor([[ 1., -1.]])

    Source: Clevert, Unterthiner and Hochreiter 2016, "Fast and Accurate Deep Network Learning by
    Exponential Linear Units".
    """

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name, input_shape)
        self.alpha = number("alpha", alpha)

    @override
    def call(self, x: Tensor) -> Tensor:
        return functional.elu(x, self.alpha)

    @override
    def flops(self) -> int | None:
        return self.elements(2)


class PReLU(Layer):
    """x where positive, alpha · x elsewhere, alpha learned.

    Shapes: unchanged. `weight` (alpha) has the shape of one sample, (H, W, C), with 1 on the
    shared axes: shared_axes=(1, 2) is one slope a channel.

    Args: alpha_initializer ('zeros'), alpha_regularizer, alpha_constraint (None), shared_axes
    (None), counted from 1, the batch being 0.

    >>> layer = PReLU(shared_axes=(1, 2))
    >>> layer.build((None, 8, 8, 3))
    >>> layer.weight.shape
    torch.Size([1, 1, 3])

    Source: He et al. 2015, "Delving Deep into Rectifiers".
    """

    def __init__(
        self,
        alpha_initializer: Any = "zeros",
        alpha_regularizer: Any = None,
        alpha_constraint: Any = None,
        shared_axes: int | Sequence[int] | None = None,
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name, input_shape)
        self.alpha_initializer = initializers.get(alpha_initializer)
        self.alpha_regularizer = regularizers.get(alpha_regularizer)
        self.alpha_constraint = constraints.get(alpha_constraint)
        axes = shared_axes if isinstance(shared_axes, (Iterable, type(None))) else (shared_axes,)
        self.shared_axes = None if axes is None else tuple(whole("axis", each) for each in axes)

    @override
    def make_weights(self, input_shape: Shape) -> None:
        shared = self.shared_axes or ()
        if any(not 1 <= axis < len(input_shape) for axis in shared):
            raise ValueError(
                f"shared_axes must lie in 1 ... {len(input_shape) - 1}, got {self.shared_axes}"
            )
        sizes = [1 if axis in shared else size for axis, size in enumerate(input_shape)][1:]
        if None in sizes:
            raise ValueError(f"{self.name} needs to know the sizes of the axes it does not share")
        alpha = torch.empty([int(size or 0) for size in sizes])
        self.add_weight(
            "weight", alpha, self.alpha_initializer, self.alpha_regularizer, self.alpha_constraint
        )

    @override
    def call(self, x: Tensor) -> Tensor:
        alpha = self.weight.permute(2, 0, 1) if x.dim() == 4 else self.weight
        return torch.where(x > 0, x, alpha * x)

    @override
    def flops(self) -> int | None:
        return self.elements(2)

    @override
    def keras_weights(self) -> list[tuple[str, Tensor]]:
        return [("alpha", self.weight)] if self.built else []


class ActivityRegularization(Layer):
    """x itself, with a penalty on it in the loss: (l1 · Σ|x| + (l2 / 2) · Σx²) / N.

    The article's L2 (`regularizers.L2`): Keras' layer of l2 / 2.

    >>> layer = ActivityRegularization(l1=1.0)
    >>> y = layer(torch.tensor([[1.0, -2.0]]))
    >>> regularizers.penalty(layer)
    tensor(3.)
    """

    def __init__(
        self,
        l1: float = 0.0,
        l2: float = 0.0,
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name, input_shape)
        self.l1 = l1
        self.l2 = l2
        self.activity_regularizer = regularizers.L1L2(l1, l2)

    @override
    def call(self, x: Tensor) -> Tensor:
        return x
