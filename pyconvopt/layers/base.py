"""What every layer shares: a name, building from an input shape, weights in Keras' layouts.

Shapes are Keras': the batch first and unknown (None), channels last: (None, 28, 28, 1). Tensors
inside are torch's: N, C, H, W in channels_last memory, whose bytes lie exactly as those of an
N, H, W, C array. So an array enters and leaves by a permute that moves nothing, while every
kernel sees the layout it is fastest on.
"""

from __future__ import annotations

import inspect
import math
import re
import weakref
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from pyconvopt import activations, constraints, initializers, regularizers, schedules
from pyconvopt.data.checks import whole

Shape = tuple[int | None, ...]


def product(sizes: Shape) -> int | None:
    """The product of sizes; None where one is unknown.

    >>> product((3, 3, 64)), product((None, 3))
    (576, None)
    """
    known = [size for size in sizes if size is not None]
    return math.prod(known) if len(known) == len(sizes) else None


def to_torch_axes(x: Tensor) -> Tensor:
    """N, H, W, C to N, C, H, W: a view. Anything that is not an image stays as it is."""
    return x.permute(0, 3, 1, 2) if x.dim() == 4 else x


def to_array_axes(x: Tensor) -> Tensor:
    """N, C, H, W to N, H, W, C: a view. Anything that is not an image stays as it is."""
    return x.permute(0, 2, 3, 1) if x.dim() == 4 else x


def pair(value: int | Sequence[int], name: str, least: int = 1) -> tuple[int, int]:
    """A height and a width from one number or two.

    >>> pair(3, 'kernel_size'), pair((3, 5), 'kernel_size')
    ((3, 3), (3, 5))
    """
    try:
        height, width = value if isinstance(value, Iterable) else (value, value)
        return whole(name, height, least), whole(name, width, least)
    except ValueError:
        raise ValueError(
            f"{name} must be one or two whole numbers >= {least}, got {value!r}"
        ) from None


def sample_shape(sizes: Any) -> tuple[int | None, ...]:
    """The shape of one sample, its sizes whole numbers, None where one is unknown.

    >>> sample_shape(np.array([28, 28, 1]))
    (28, 28, 1)
    """
    try:
        return tuple(None if size is None else whole("size", size) for size in sizes)
    except (TypeError, ValueError):
        shape = tuple(sizes) if isinstance(sizes, Iterable) else sizes
        raise ValueError(f"input_shape must hold whole numbers >= 1, got {shape}") from None


def number(name: str, value: Any, least: float | None = None) -> Any:
    """A number of Python's or NumPy's, `least` (None: any) or more, and not NaN.

    >>> number('stddev', np.float64(0.5), 0)
    0.5
    """
    if not isinstance(value, Real) or value != value or (least is not None and value < least):
        wanted = "a number" if least is None else f"{least} or more"
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return plain(value)


def truth(name: str, value: Any) -> bool:
    """A truth value of Python's or NumPy's, as Python's.

    >>> truth('use_bias', np.False_)
    False
    """
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be true or false, got {value!r}")
    return bool(value)


def plain(value: Any) -> Any:
    """Numbers, and what holds them, as JSON can: NumPy's as Python's, tuples and arrays as lists.

    >>> plain({'rate': np.float32(0.5), 'sizes': (np.int64(2), 3)})
    {'rate': 0.5, 'sizes': [2, 3]}
    """
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value.tolist() if isinstance(value, (np.generic, np.ndarray, Tensor)) else value


def number_or_schedule(name: str, value: Any) -> Any:
    """A number or a function of the step as it is; a schedule from what a file holds of it.

    >>> number_or_schedule('rate', {'name': 'constant', 'config': {'lr': 0.5}})
    Constant(lr=0.5)
    """
    if isinstance(value, Mapping):
        return schedules.get(value)
    return value if callable(value) else number(name, value)


def channels_last_only(data_format: str | None) -> None:
    """Refuse Keras' other array layout."""
    if data_format not in (None, "channels_last"):
        raise ValueError(
            f"data_format must be 'channels_last', got {data_format!r}: arrays are N, H, W, C here"
        )


def show(shape: Shape) -> str:
    """A shape as a person reads it: N for the batch.

    >>> show((None, 28, 28, 1))
    '(N, 28, 28, 1)'
    """
    return "(" + ", ".join("N" if size is None else str(size) for size in shape) + ")"


class Layer(nn.Module):
    """A part of a `Sequential`: an nn.Module that learns its input shape when it is built.

    Called on its own, a layer takes and gives torch's N, C, H, W tensors and builds itself on
    the first call; inside a `Sequential` it is built as it is added.

    A subclass names the `ranks` of input it takes (batch counted) and gives `call`,
    `compute_output_shape` and, where there are any, `make_weights` and `keras_weights`.

    Args: name (None: from the class), input_shape (without the batch; for a first layer).
    """

    _name: str
    weight: Tensor
    bias: Tensor | None
    ranks: ClassVar[tuple[int, ...]] = ()

    def __init__(self, name: str | None = None, input_shape: Sequence[int] | None = None) -> None:
        super().__init__()
        if name is not None and not isinstance(name, str):
            raise TypeError(f"a layer's name must be a string, got {name!r}")
        snake_case = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", type(self).__name__).lower()
        self.named_by_user = name is not None
        self.held_by: weakref.ref[nn.Module] | None = None  # the model with the layer
        self.name = name or snake_case
        self.activation: Any = activations.linear
        self._activity_regularizer: Any = None
        self.given_shape = None if input_shape is None else sample_shape(input_shape)
        self.input_shape: Shape | None = None
        self.output_shape: Shape | None = None
        self.is_trainable = True

    @property
    def name(self) -> str:
        """What the layer is called; it keeps the name under which a model has it.

        Errors: ValueError for setting another then.
        """
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        model = None if self.held_by is None else self.held_by()
        if model is not None and name != self._name and self in model.children():
            raise ValueError(
                f"the layer {self._name!r} is in a model, by whose names weights are saved, and cannot "
                f"be called {name!r}: name it before it is added"
            )
        self._name = name

    @override
    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "held_by": None}  # a copy is in no model

    @property
    def built(self) -> bool:
        """Whether the layer knows its input shape and has its weights."""
        return self.input_shape is not None

    def build(self, input_shape: Shape) -> None:
        """Make the weights for inputs of that shape, batch first: (None, 28, 28, 1).

        Errors: ValueError for a rank or a size the layer cannot take.
        """
        shape = (None, *input_shape[1:])
        if self.ranks and len(shape) not in self.ranks:
            ranks = " or ".join(str(rank) for rank in self.ranks)
            raise ValueError(
                f"{self.name} takes inputs of {ranks} axes (the batch counted), got "
                f"{len(shape)}: {show(shape)}"
            )
        self.output_shape = (None, *self.compute_output_shape(shape)[1:])
        self.make_weights(shape)
        self.input_shape = shape
        if not self.is_trainable:
            self.requires_grad_(False)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """The output's shape for an input's, batch first; ValueError where none fits."""
        return input_shape

    def make_weights(self, input_shape: Shape) -> None:
        """Register the parameters; nothing to do for a layer that has none."""

    def call(self, x: Tensor) -> Tensor:
        """The layer's function on N, C, H, W (or N, features) tensors."""
        raise NotImplementedError

    def channels(self) -> int:
        """The size of the input's last axis, once the layer is built."""
        return (self.input_shape or (0,))[-1] or 0

    @override
    def forward(self, x: Tensor, **options: Any) -> Tensor:
        if not self.built:
            self.build((None, *to_array_axes(x).shape[1:]))
        return self.call(x, **options)

    @property
    def output_activation(self) -> str | None:
        """'softmax' or 'sigmoid' if the layer ends in it and can stop before: call(logits=True)."""
        ends = {activations.softmax: "softmax", activations.sigmoid: "sigmoid"}
        try:
            return ends.get(self.activation)
        except TypeError:  # an unhashable callable is none of ours
            return None

    @property
    def activity_regularizer(self) -> Any:
        """The penalty on the layer's output, or None; setting it puts it there or takes it away."""
        return self._activity_regularizer

    @activity_regularizer.setter
    def activity_regularizer(self, regularizer: Any) -> None:
        self._activity_regularizer = regularizer
        regularizers.watch(self, regularizer)

    def flops(self) -> int | None:
        """Floating-point operations a sample, a multiplication and an addition counted as two."""
        return 0

    def elements(self, per_element: int = 1) -> int | None:
        """`per_element` times the output's size; None where a size is unknown."""
        size = product((self.output_shape or (None, None))[1:])
        return None if size is None else per_element * size

    def add_weight(
        self,
        name: str,
        tensor: Tensor,
        initializer: Any,
        regularizer: Any = None,
        constraint: Any = None,
    ) -> None:
        """Register a parameter, filled by the initialiser, its regulariser and constraint beside it."""
        self.register_parameter(name, nn.Parameter(filled(tensor, initializer)))
        regularizers.set_on(self, name, regularizer)
        constraints.set_on(self, name, constraint)

    def add_kernel(self, kernel: Tensor, outputs: int) -> None:
        """Register `weight`, and with `use_bias` a `bias` of so many outputs, as the layer was told."""
        layer: Any = self
        self.add_weight(
            "weight",
            kernel,
            layer.kernel_initializer,
            layer.kernel_regularizer,
            layer.kernel_constraint,
        )
        if layer.use_bias:
            self.add_weight(
                "bias",
                torch.empty(outputs),
                layer.bias_initializer,
                layer.bias_regularizer,
                layer.bias_constraint,
            )
        else:
            self.register_parameter("bias", None)

    @property
    def trainable(self) -> bool:
        """Whether training changes the weights; setting it freezes or frees them all."""
        return self.is_trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self.is_trainable = truth("trainable", value)
        self.requires_grad_(self.is_trainable)

    def keras_weights(self) -> list[tuple[str, Tensor]]:
        """Keras' name and a view in Keras' layout of each weight, in Keras' order."""
        return []

    def all_weights(self) -> list[tuple[str, Tensor]]:
        """`keras_weights`, and behind them the parameters of an activation that has some."""
        extra = self.activation.named_parameters() if isinstance(self.activation, nn.Module) else ()
        own = self.keras_weights()
        return own + [(f"activation.{name}", parameter) for name, parameter in extra]

    def get_weights(self) -> list[np.ndarray]:
        """Copies of the weights in Keras' layouts: kernels (H, W, in, out), dense (in, out)."""
        return [view.detach().cpu().numpy().copy() for _, view in self.all_weights()]

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Overwrite the weights with arrays as `get_weights` gives them.

        Errors: ValueError if the layer is not built, or for a wrong number of arrays or shape; the
        weights are then as they were.
        """
        self.check_weights(weights)
        tensors = [torch.as_tensor(np.array(array)) for array in weights]
        with torch.no_grad():
            for (_, view), tensor in zip(self.all_weights(), tensors, strict=True):
                view.copy_(tensor)

    def check_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Refuse arrays that are not as many, or not of the shapes, as `get_weights` gives."""
        if not self.built:
            raise ValueError(f"{self.name} has no weights yet: build it first")
        views = self.all_weights()
        if len(views) != len(weights):
            raise ValueError(f"{self.name} has {len(views)} weights, got {len(weights)}")
        for (name, view), array in zip(views, weights, strict=True):
            if tuple(view.shape) != np.shape(array):
                raise ValueError(
                    f"{self.name}: {name} has shape {tuple(view.shape)}, got {np.shape(array)}"
                )

    def count_params(self) -> int:
        """The number of weights, moving statistics included."""
        return sum(int(view.numel()) for _, view in self.all_weights())

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments as JSON can hold them; `type(layer)(**config)` rebuilds."""
        config: dict[str, Any] = {"name": self.name}
        if self.given_shape is not None:
            config["input_shape"] = list(self.given_shape)
        for argument in inspect.signature(type(self).__init__).parameters:
            if argument not in ("self", "name", "input_shape", "data_format"):
                config[argument] = plain(as_json(argument, getattr(self, argument)))
        return config

    @override
    def extra_repr(self) -> str:
        signature = inspect.signature(type(self).__init__).parameters.values()
        given = [
            f"{argument.name}={getattr(self, argument.name)!r}"
            for argument in signature
            if hasattr(self, argument.name)
            and argument.name != "name"
            and isinstance(getattr(self, argument.name), (int, float, str, tuple))
            and getattr(self, argument.name) is not False
            and argument.name not in ("input_shape", "use_bias")
        ]
        return ", ".join(given)


def as_json(argument: str, value: Any) -> Any:
    """A constructor argument as JSON can hold it: methods by their name and settings."""
    for ending, methods in (
        ("activation", activations),
        ("initializer", initializers),
        ("regularizer", regularizers),
        ("constraint", constraints),
    ):
        if argument.endswith(ending):
            return methods.describe(value)
    if callable(value):  # a number that follows the step
        return schedules.describe(value)
    return value


def filled(tensor: Tensor, initializer: Any) -> Tensor:
    """The tensor with its first values: filled in place, or with those that the initialiser returns.

    Errors: ValueError for values of another shape.
    """
    with torch.no_grad():
        values = initializer(tensor)
        if isinstance(values, Tensor) and values is not tensor:
            if values.shape != tensor.shape:
                raise ValueError(
                    f"the initializer returned values of shape {tuple(values.shape)} for a weight of "
                    f"shape {tuple(tensor.shape)}"
                )
            tensor.copy_(values)
    return tensor


def build_or_check(layer: Layer, shape: Shape) -> None:
    """Build a layer for inputs of that shape; one that is built must have been for such.

    Errors: ValueError for a layer that was built for others.
    """
    if not layer.built:
        layer.build(shape)
        return
    if differ(layer.input_shape or (), shape):
        raise ValueError(
            f"{layer.name} was built for inputs of shape {show(layer.input_shape or ())} and cannot "
            f"follow an output of {show(shape)}"
        )


def differ(one: Shape, other: Shape) -> bool:
    """Whether two shapes cannot be of one array: an unknown size may be any.

    >>> differ((None, 28, 1), (None, None, 1)), differ((None, 28, 1), (None, 27, 1))
    (False, True)
    """
    return len(one) != len(other) or any(
        None not in sizes and sizes[0] != sizes[1] for sizes in zip(one, other, strict=True)
    )
