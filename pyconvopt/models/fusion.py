"""Neighbouring layers that run as one pass over memory.

A rule looks at the layers from one position on and says how many it takes and what they are called
as. A layer with a forward or backward hook runs alone, so that the hook
sees its input and output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from pyconvopt import activations, explanation
from pyconvopt.autograd.handover import offer
from pyconvopt.autograd.recompute import UnstoredMap
from pyconvopt.hooks import has_hooks
from pyconvopt.layers import (
    Activation,
    BatchNormalization,
    Conv2D,
    Dropout,
    MaxPooling2D,
    ReLU,
)
from pyconvopt.layers.base import Layer

Step = Callable[[Any], Any]


def steps(layers: Sequence[Layer]) -> list[Step]:
    """The layers as a list of callables, neighbours joined where a rule of `RULES` takes them."""
    found: list[Step] = []
    start = 0
    while start < len(layers):
        rule = RULES.get(type(layers[start]))
        count, step = (0, None) if rule is None else rule(layers, start)
        if step is None or any(map(has_hooks, layers[start : start + count])):
            count, step = 1, layers[start]
        else:
            step = named(step, layers[start : start + count])
        found.append(step)
        start += count
    return found


def named(step: Step, layers: Sequence[Layer]) -> Step:
    """The step, under the joined names of its layers while `explain` listens."""
    if not explanation.listening():
        return step
    return partial(explanation.run_as, "+".join(layer.name for layer in layers), step)


def convolution_chain(layers: Sequence[Any], start: int) -> tuple[int, Step | None]:
    """Convolution, ReLU or nothing, 2×2 max-pool: the map between is never stored.

    Or a batch norm in training and what follows it: the convolution takes the batch's statistics.
    """
    first, after = layers[start], layers[start + 1 : start + 2]
    if not after:
        return 0, None
    if is_pool(after[0]) and first.activation in (activations.linear, activations.relu):
        return 2, partial(first.call, pool=True)
    if type(after[0]) is BatchNormalization and first.activation is activations.linear:
        normalization = after[0]
        if normalization.uses_batch_statistics() and not normalization.uses_joined_batch():
            count, normalize = normalization_chain(layers, start + 1)
            return 1 + max(count, 1), with_moments(first, normalize or normalization.call)
    return 0, None


def with_moments(convolution: Conv2D, normalize: Callable[..., Any]) -> Step:
    """The convolution, and what normalises its output, by the statistics that it took."""

    def step(x: Tensor | UnstoredMap) -> Tensor | UnstoredMap:
        y, moments = convolution.with_moments(x)
        offer(y)
        return normalize(y, moments=moments)

    return step


def normalization_chain(layers: Sequence[Any], start: int) -> tuple[int, Step | None]:
    """Batch norm, then what there is of ReLU, 2×2 max-pool and dropout, in that order.

    A convolution or another max-pool behind it reads a map that is not stored. Over the batch of several
    processes it runs alone.
    """
    first, end, rate = layers[start], start + 1, 0.0
    if len(first.output_shape or ()) != 4 or first.uses_joined_batch():
        return 0, None
    relu = len(layers) > end and is_relu(layers[end])
    end += relu
    pool = len(layers) > end and is_pool(layers[end])
    end += pool
    if (relu or pool) and len(layers) > end and type(layers[end]) is Dropout:
        rate = layers[end].rate if layers[end].training else 0.0
        end += 1
    activation = "relu" if relu else None
    if not pool and rate == 0 and makes_its_input(layers[end : end + 1]):
        return end - start, partial(first.unstored, activation=activation)
    if end == start + 1:
        return 0, None
    return end - start, partial(first.call, activation=activation, pool=pool, dropout=rate)


# By the class of the first layer: how many layers are joined (0: none), and what they are called as.
RULES: dict[type, Callable[[Sequence[Any], int], tuple[int, Step | None]]] = {
    Conv2D: convolution_chain,
    BatchNormalization: normalization_chain,
}


def makes_its_input(layers: Sequence[Any]) -> bool:
    """Whether the layer, if there is one, is a convolution or max-pool that nobody watches."""
    return any(type(layer) in (Conv2D, MaxPooling2D) and not has_hooks(layer) for layer in layers)


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
