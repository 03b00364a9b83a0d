"""A residual block: layers whose output is added to their input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from pyconvopt.layers.base import Layer, Shape, build_or_check, show
from pyconvopt.layers.making import describe_layer, make_layer
from pyconvopt.layers.preprocessing import Adapting


def build_row(layers: Sequence[Any], shape: Shape) -> Shape:
    """Build layers one behind another; the shape that comes out."""
    for layer in layers:
        build_or_check(layer, shape)
        shape = layer.output_shape
    return shape


class Residual(Layer):
    """y = shortcut(x) + layers(x), each a row of layers; without a shortcut x itself is added.

    With `DropPath` as the last of `layers` the block is left out at random: stochastic depth.

    Args: layers (one or more layers, or {"type": ..., arguments} of each, as a recipe has them),
    shortcut (none; such as a 1×1 convolution where size or channels change).
    Shapes: those of the layers, which must agree with the shortcut's.

    Errors: ValueError for shapes that differ, or a layer that must be adapted to images.

    >>> from pyconvopt.layers import Conv2D, DropPath
    >>> block = Residual([Conv2D(4, 3, padding='same', activation='relu'), DropPath(0.1)])
    >>> block.build((None, 8, 8, 4))
    >>> block.output_shape, block.count_params()
    ((None, 8, 8, 4), 148)

    Source: He et al. 2016, "Deep Residual Learning for Image Recognition"; Huang et al. 2016 for
    stochastic depth.
    """

    def __init__(
        self,
        layers: Sequence[Any],
        shortcut: Sequence[Any] = (),
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name, input_shape)
        self.layers = nn.ModuleList(map(make_layer, layers))
        self.shortcut = nn.ModuleList(map(make_layer, shortcut))
        if not len(self.layers):
            raise ValueError("Residual needs one layer or more, got none")
        for layer in self.parts():
            if isinstance(layer, Adapting):
                raise ValueError(
                    f"a {type(layer).__name__} adapts to images and must stand in the Sequential itself, not "
                    "in a Residual"
                )

    def parts(self) -> list[Any]:
        """Every layer in it."""
        return [*self.layers, *self.shortcut]

    @override
    def build(self, input_shape: Shape) -> None:
        ends = [build_row(list(row), input_shape) for row in (self.layers, self.shortcut)]
        if ends[0][1:] != ends[1][1:]:
            raise ValueError(
                f"{self.name} cannot add {show(ends[0])}, its layers' output, to "
                f"{show(ends[1])}: give a shortcut that makes the shapes agree"
            )
        super().build(input_shape)

    @override
    def compute_output_shape(self, input_shape: Shape) -> Shape:
        last: Any = self.layers[-1]
        return last.output_shape

    @override
    def call(self, x: Tensor) -> Tensor:
        from pyconvopt.models import fusion

        y, short = x, x
        for step in fusion.steps(self.layers):  # type: ignore[arg-type]
            y = step(y)
        for step in fusion.steps(self.shortcut):  # type: ignore[arg-type]
            short = step(short)
        return short + y

    @property
    @override
    def trainable(self) -> bool:
        return self.is_trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self.is_trainable = bool(value)
        for layer in self.parts():
            layer.trainable = value

    @override
    def flops(self) -> int | None:
        counts = [*(layer.flops() for layer in self.parts()), self.elements()]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    @override
    def keras_weights(self) -> list[tuple[str, Tensor]]:
        return [
            (f"{layer.name}.{name}", view)
            for layer in self.parts()
            for name, view in layer.all_weights()
        ]

    @override
    def get_config(self) -> dict[str, Any]:
        shape = {} if self.given_shape is None else {"input_shape": list(self.given_shape)}
        rows = {"layers": self.layers, "shortcut": self.shortcut}
        described: Any = {key: [describe_layer(each) for each in row] for key, row in rows.items()}  # type: ignore[arg-type]
        return {"name": self.name, **shape, **described}
