"""Neighbouring layers that run as one pass over memory.

Each rule looks at the layers from one position on and says how many it takes and what they are
called as; the longest first. A layer with a forward or backward hook runs alone, so that the hook
sees its input and output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from pyconvopt import activations, explanation
from pyconvopt.layers import (
    Activation,
    BatchNormalization,
    Conv2D,
    Dropout,
    MaxPooling2D,
    ReLU,
)
from pyconvopt.layers.base import Layer

Step = Callable[[Tensor], Tensor]


def steps(layers: Sequence[Layer]) -> list[Step]:
    """The layers as a list of callables, neighbours joined where a rule of `RULES` takes them."""
    found: list[Step] = []
    start = 0
    while start < len(layers):
        for rule in RULES:
            count, step = rule(layers[start:])
            if count and not any(map(has_hooks, layers[start : start + count])):
                found.append(named(step, layers[start : start + count]))
                break
        else:
            count = 1
            found.append(layers[start])
        start += count
    return found


def named(step: Step, layers: Sequence[Layer]) -> Step:
    """The step, under the joined names of its layers while `explain` listens."""
    if not explanation.listening():
        return step
    return partial(explanation.run_as, "+".join(layer.name for layer in layers), step)


def convolution_pool(layers: Sequence[Layer]) -> tuple[int, Step]:
    """Convolution, ReLU or nothing, 2×2 max-pool: the map between is never stored."""
    first = layers[0]
    if (
        type(first) is Conv2D
        and first.activation in (activations.linear, activations.relu)
        and len(layers) > 1
        and is_pool(layers[1])
    ):
        return 2, partial(first.call, pool=True)
    return 0, first


def normalization_chain(layers: Sequence[Layer]) -> tuple[int, Step]:
    """Batch norm, then what there is of ReLU, 2×2 max-pool and dropout, in that order."""
    first = layers[0]
    if type(first) is not BatchNormalization or len(first.output_shape or ()) != 4:
        return 0, first
    count, relu, pool = 1, False, False
    dropout: Dropout | None = None
    if len(layers) > count and is_relu(layers[count]):
        count, relu = count + 1, True
    if len(layers) > count and is_pool(layers[count]):
        count, pool = count + 1, True
    last = layers[count] if len(layers) > count else None
    if (relu or pool) and type(last) is Dropout:
        count, dropout = count + 1, last
    if count == 1:
        return 0, first
    rate = dropout.rate if dropout is not None and dropout.training else 0.0
    return count, partial(first.call, activation="relu" if relu else None, pool=pool, dropout=rate)


RULES = (convolution_pool, normalization_chain)


def is_relu(layer: Layer) -> bool:
    """Whether the layer is a plain max(x, 0)."""
    if type(layer) is Activation:
        return layer.activation is activations.relu
    plain = (None, 0, 0)
    return type(layer) is ReLU and plain == (
        layer.max_value,
        layer.negative_slope,
        layer.threshold,
    )


def is_pool(layer: Layer) -> bool:
    """Whether the layer is 2×2 max-pooling with stride 2, nothing padded."""
    return (
        type(layer) is MaxPooling2D
        and layer.pool_size == layer.strides == (2, 2)
        and layer.padding == "valid"
    )


def has_hooks(layer: Layer) -> bool:
    """Whether somebody watches this layer's input or output."""
    return bool(
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
    )
