"""Two-dimensional convolution. Its bias and ReLU are computed inside the kernel that convolves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from pyconvopt import activations, constraints, functional, initializers, regularizers
from pyconvopt.autograd.recompute import UnstoredMap
from pyconvopt.data.checks import whole
from pyconvopt.layers import windows
from pyconvopt.layers.base import Layer, Shape, channels_last_only, pair, truth
from pyconvopt.nn.conv import standardized


class Conv2D(Layer):
    """y[n, h, w, f] = activation(b[f] + Σ x[n, s·h + d·i, s·w + d·j, c] · k[i, j, c, f]).

    Shapes: (N, H, W, C) to (N, H', W', filters). With padding='valid' H' = ⌊(H - d·(k - 1) - 1)
    / s⌋ + 1, with 'same' H' = ⌈H / s⌉.

    Args: filters, kernel_size, strides (1), padding ('valid' or 'same'), dilation_rate (1),
    groups (1), activation (None; 'relu' is fused with the convolution), use_bias (True),
    kernel_initializer ('glorot_uniform'), bias_initializer ('zeros'), kernel_regularizer,
    bias_regularizer, activity_regularizer, kernel_constraint and bias_constraint (None),
    weight_standardization (False; True: the filters used are (k - mean) / √(variance + 1e-5),
    filter by filter, see `pyconvopt.nn.WeightStandardizedConv2d`; the weights stay as they are).

    Parameters: `weight` (filters, C / groups, kh, kw) in channels_last memory, `bias` (filters,).

    Errors: ValueError for channels that the groups do not divide, or an image smaller than the
    kernel.

    >>> layer = Conv2D(32, (3, 3), activation='relu')
    >>> layer.build((None, 28, 28, 1))
    >>> layer.output_shape, layer.count_params()
    ((None, 26, 26, 32), 320)

    Source: LeCun et al. 1989, "Backpropagation applied to handwritten zip code recognition".
    """

    ranks = (4,)

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = (1, 1),
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = (1, 1),
        groups: int = 1,
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
        weight_standardization: bool = False,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name, input_shape)
        channels_last_only(data_format)
        self.filters = whole("filters", filters)
        self.groups = whole("groups", groups)
        if self.filters % self.groups:
            raise ValueError(f"groups must divide the {filters} filters, got {groups!r}")
        self.kernel_size = pair(kernel_size, "kernel_size")
        self.strides = pair(strides, "strides")
        self.padding = windows.padding_name(padding)
        self.dilation_rate = pair(dilation_rate, "dilation_rate")
        self.activation = activations.get(activation)
        self.use_bias = truth("use_bias", use_bias)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.activity_regularizer = regularizers.get(activity_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.bias_constraint = constraints.get(bias_constraint)
        self.weight_standardization = truth("weight_standardization", weight_standardization)

    def reach(self) -> tuple[int, int]:
        """Height and width of the image that one output sees."""
        (height, width), (down, across) = self.kernel_size, self.dilation_rate
        return down * (height - 1) + 1, across * (width - 1) + 1

    @override
    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, channels = input_shape
        if channels is None or channels < 1 or channels % self.groups:
            raise ValueError(
                f"{self.name}: the input's {channels} channels cannot be split into "
                f"{self.groups} groups"
            )
        windows.require_room(self.name, "kernel", input_shape, self.reach(), self.padding)
        sizes = [
            windows.output_size(size, window, stride, self.padding, dilation)
            for size, window, stride, dilation in zip(
                (height, width), self.kernel_size, self.strides, self.dilation_rate, strict=True
            )
        ]
        return (batch, *sizes, self.filters)

    @override
    def make_weights(self, input_shape: Shape) -> None:
        channels = int(input_shape[-1] or 0) // self.groups
        # Allocated as (out, kh, kw, in) and viewed as (out, in, kh, kw): channels_last memory,
        # also where there is one channel and `.to(memory_format=...)` would change nothing.
        kernel = torch.empty(self.filters, *self.kernel_size, channels).permute(0, 3, 1, 2)
        self.add_kernel(kernel, self.filters)

    @override
    def call(self, x: Tensor, logits: bool = False, pool: bool = False) -> Tensor:
        return self.convolve(x, self.padding, logits, pool)

    def convolve(self, x: Tensor, padding: str, logits: bool, pool: bool = False) -> Tensor:
        """The layer's function with 'valid' or 'same' padding."""
        fused = "relu" if self.activation is activations.relu else None
        run = functional.conv2d_max_pool if pool else functional.conv2d
        y = run(*self.arguments(x, padding), activation=fused)
        return y if fused or logits else self.activation(y)

    def with_moments(self, x: Tensor | UnstoredMap) -> tuple[Tensor, Tensor | None]:
        """The convolution without its activation, and the statistics for a batch norm behind it."""
        return functional.conv2d_moments(*self.arguments(x, self.padding))

    def arguments(self, x: Tensor | UnstoredMap, padding: str) -> tuple[Any, ...]:
        """What the functions of convolution take, the input padded where its two sides differ."""
        border = (0, 0)
        if padding == "same":
            x, border = windows.pad_same(x, self.kernel_size, self.strides, self.dilation_rate)
        weight = standardized(self.weight) if self.weight_standardization else self.weight
        return x, weight, self.bias, self.strides, border, self.dilation_rate, self.groups

    @override
    def flops(self) -> int | None:
        taps = self.kernel_size[0] * self.kernel_size[1] * self.channels()
        extra = self.use_bias + (self.activation is not activations.linear)
        return self.elements(2 * taps // self.groups + extra)

    @override
    def keras_weights(self) -> list[tuple[str, Tensor]]:
        if not self.built:
            return []
        kernel = [("kernel", self.weight.permute(2, 3, 1, 0))]
        return kernel + ([] if self.bias is None else [("bias", self.bias)])
