"""Input, Flatten and Dense: the frame around the convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from pyconvopt import activations, constraints, functional, initializers, regularizers
from pyconvopt.data.checks import whole
from pyconvopt.layers.base import (
    Layer,
    Shape,
    product,
    sample_shape,
    to_array_axes,
    to_torch_axes,
    truth,
)


class InputLayer(Layer):
    """Tells a Sequential the shape of its input; it computes nothing and is not listed.

    Args: shape, without the batch: (28, 28, 1).
    """

    def __init__(self, shape: Sequence[int], *, name: str | None = None) -> None:
        super().__init__(name, shape)
        self.shape = sample_shape(shape)

    @override
    def call(self, x: Tensor) -> Tensor:
        return x


def Input(shape: Sequence[int], name: str | None = None) -> InputLayer:
    """An `InputLayer`, under the name Keras users write.

    >>> Input(shape=(28, 28, 1)).shape
    (28, 28, 1)
    """
    return InputLayer(shape, name=name)


class Flatten(Layer):
    """Each image as one row, in Keras' order: height, width, channel.

    Shapes: (N, H, W, C) to (N, H·W·C). On channels_last memory it is a view.

    >>> layer = Flatten()
    >>> layer.build((None, 3, 3, 64))
    >>> layer.output_shape
    (None, 576)
    """

    def __init__(
        self, *, input_shape: Sequence[int] | None = None, name: str | None = None
    ) -> None:
        super().__init__(name, input_shape)

    @override
    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], product(input_shape[1:]))

    @override
    def call(self, x: Tensor) -> Tensor:
        return to_array_axes(x).reshape(x.shape[0], math.prod(x.shape[1:]))


class Dense(Layer):
    """y = activation(x · kernel + b), over the last axis of the array.

    Shapes: (N, ..., in) to (N, ..., units).

    Args: units, activation (None), use_bias (True), kernel_initializer ('glorot_uniform'),
    bias_initializer ('zeros'), kernel_regularizer, bias_regularizer, activity_regularizer,
    kernel_constraint and bias_constraint (None).

    Parameters: `weight` (units, in) as in torch, `bias` (units,).

    >>> layer = Dense(10, activation='softmax')
    >>> layer.build((None, 64))
    >>> layer.output_shape, layer.count_params()
    ((None, 10), 650)
    """

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name, input_shape)
        self.units = whole("units", units)
        self.activation = activations.get(activation)
        self.use_bias = truth("use_bias", use_bias)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.activity_regularizer = regularizers.get(activity_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.bias_constraint = constraints.get(bias_constraint)

    @override
    def compute_output_shape(self, input_shape: Shape) -> Shape:
        if len(input_shape) < 2 or not input_shape[-1]:
            raise ValueError(
                f"{self.name} needs to know the size of the last axis, got {input_shape}"
            )
        return (*input_shape[:-1], self.units)

    @override
    def make_weights(self, input_shape: Shape) -> None:
        kernel = torch.empty(self.units, int(input_shape[-1] or 0))
        self.add_kernel(kernel, self.units)

    @override
    def call(self, x: Tensor, logits: bool = False) -> Tensor:
        y = to_torch_axes(functional.linear(to_array_axes(x), self.weight, self.bias))
        return y if logits else self.activation(y)

    @override
    def flops(self) -> int | None:
        extra = self.use_bias + (self.activation is not activations.linear)
        return self.elements(2 * self.channels() + extra)

    @override
    def keras_weights(self) -> list[tuple[str, Tensor]]:
        if not self.built:
            return []
        return [("kernel", self.weight.t())] + ([] if self.bias is None else [("bias", self.bias)])
