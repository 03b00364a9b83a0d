"""Convolutions of Conv2D's kind: transposed, and along one axis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as torch_functional
from torch import Tensor
from typing_extensions import override

from pyconvopt import activations, functional
from pyconvopt.data.checks import whole
from pyconvopt.layers import windows
from pyconvopt.layers.base import Shape, pair
from pyconvopt.layers.convolution import Conv2D


class Conv2DTranspose(Conv2D):
    """The map whose Conv2D has the input's shape: each pixel spreads its filters' taps.

    y[n, s·h + d·i - p, s·w + d·j - q, f] += x[n, h, w, c] · k[i, j, f, c], then bias and activation.

    Shapes: (N, H, W, C) to (N, H', W', filters). With r = d·(k - 1) + 1, padding='same' gives H' =
    s·H and 'valid' H' = s·(H - 1) + max(r, s); with output_padding o it is s·(H - 1) + o + r for
    'valid' and s·(H - 1) + o + (r mod 2) for 'same'.

    Args: as Conv2D without groups and weight_standardization, and output_padding (None), smaller
    than the strides.

    Parameters: `weight` (C, filters, kh, kw) in channels_last memory, `bias` (filters,).

    Errors: ValueError for an output_padding that is not smaller, or for strides and dilation_rate
    that are both above 1.

    >>> layer = Conv2DTranspose(8, 3, strides=2, padding='same')
    >>> layer.build((None, 14, 14, 16))
    >>> layer.output_shape, layer.count_params()
    ((None, 28, 28, 8), 1160)

    Source: Zeiler et al. 2010, "Deconvolutional Networks".
    """

    transposed = True  # its filters lie on the weight's second axis, as in torch's

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = (1, 1),
        padding: str = "valid",
        output_padding: int | Sequence[int] | None = None,
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = (1, 1),
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
        super().__init__(
            filters, kernel_size, strides, padding, data_format, dilation_rate, 1, activation,
            use_bias, kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer,
            activity_regularizer, kernel_constraint, bias_constraint,
            input_shape=input_shape, name=name,
        )  # fmt: skip
        self.output_padding = None
        if output_padding is not None:
            self.output_padding = pair(output_padding, "output_padding", least=0)
            if any(o >= s for o, s in zip(self.output_padding, self.strides, strict=True)):
                raise ValueError(
                    f"output_padding must be smaller than the strides {self.strides}, got "
                    f"{self.output_padding}"
                )
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise ValueError(
                f"strides and dilation_rate cannot both be above 1, got {self.strides} and "
                f"{self.dilation_rate}"
            )

    def crops(self) -> list[tuple[int, int]]:
        """Rows, then columns, cut off the full map before and after; below 0: added."""
        extras = self.output_padding or (None, None)
        return [
            windows.transposed_crop(reach, stride, self.padding, extra)
            for reach, stride, extra in zip(self.reach(), self.strides, extras, strict=True)
        ]

    @override
    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, channels = input_shape
        if channels is None or channels < 1:
            raise ValueError(
                f"{self.name} needs the number of the input's channels, got {channels}"
            )
        sizes = [
            None if size is None else (size - 1) * stride + reach - before - after
            for size, stride, reach, (before, after) in zip(
                (height, width), self.strides, self.reach(), self.crops(), strict=True
            )
        ]
        if any(size is not None and size < 1 for size in sizes):
            raise ValueError(f"{self.name}: nothing is left of an image of {height}×{width}")
        return (batch, *sizes, self.filters)

    @override
    def make_weights(self, input_shape: Shape) -> None:
        channels = int(input_shape[-1] or 0)
        kernel = torch.empty(channels, *self.kernel_size, self.filters).permute(0, 3, 1, 2)
        self.add_kernel(kernel, self.filters)

    @override
    def call(self, x: Tensor, logits: bool = False) -> Tensor:  # type: ignore[override]
        crops = self.crops()
        y = functional.conv_transpose2d(
            x,
            self.weight,
            self.bias,
            self.strides,
            tuple(before for before, _ in crops),
            tuple(max(before - after, 0) for before, after in crops),
            dilation=self.dilation_rate,
        )
        down, right = (min(before - after, 0) for before, after in crops)
        y = torch_functional.pad(y, (0, right, 0, down)) if down or right else y
        return y if logits else self.activation(y)

    @override
    def flops(self) -> int | None:
        height, width = (self.input_shape or (None,) * 4)[1:3]
        extra = self.elements(self.use_bias + (self.activation is not activations.linear))
        if height is None or width is None or extra is None:
            return None
        return 2 * self.weight.numel() * height * width + extra


class Conv1D(Conv2D):
    """y[n, l, f] = activation(b[f] + Σ x[n, s·l + d·i, c] · k[i, c, f]).

    Shapes: (N, L, C) to (N, L', filters), L' as Conv2D's H'.

    Args: as Conv2D without weight_standardization, each size one number; padding may also be
    'causal': zeros in front alone, so that an output sees no later step.

    Parameters: `weight` (filters, C / groups, 1, k), `bias` (filters,).

    Errors: ValueError for channels that the groups do not divide, or a sequence shorter than the
    kernel.

    >>> layer = Conv1D(8, 3, padding='causal')
    >>> layer.build((None, 100, 16))
    >>> layer.output_shape, layer.count_params()
    ((None, 100, 8), 392)
    """

    ranks = (3,)

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
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
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        size, step, spread = (
            one_number(value, name_of)
            for value, name_of in (
                (kernel_size, "kernel_size"),
                (strides, "strides"),
                (dilation_rate, "dilation_rate"),
            )
        )
        causal = padding == "causal"  # of the sizes of 'same'
        super().__init__(
            filters, (1, size), (1, step), "same" if causal else padding, data_format, (1, spread),
            groups, activation, use_bias, kernel_initializer, bias_initializer, kernel_regularizer,
            bias_regularizer, activity_regularizer, kernel_constraint, bias_constraint,
            input_shape=input_shape, name=name,
        )  # fmt: skip
        self.causal = causal

    @override
    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, length, channels = input_shape
        shape = super().compute_output_shape((batch, 1, length, channels))
        return (batch, *shape[2:])

    @override
    def call(self, x: Tensor, logits: bool = False) -> Tensor:  # type: ignore[override]
        line = x.transpose(1, 2).unsqueeze(2)
        if self.causal:
            line = torch_functional.pad(line, (self.reach()[1] - 1, 0))
        y = self.convolve(line, "valid" if self.causal else self.padding, logits)
        return y.squeeze(2).transpose(1, 2)

    @override
    def keras_weights(self) -> list[tuple[str, Tensor]]:
        weights = dict(super().keras_weights())
        return [(key, each[0] if key == "kernel" else each) for key, each in weights.items()]

    @override
    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        for size in ("kernel_size", "strides", "dilation_rate"):
            config[size] = config[size][1:]
        return config | {"padding": "causal" if self.causal else self.padding}


def one_number(value: int | Sequence[int], name: str) -> int:
    """The number of 3 or (3,)."""
    try:
        (number,) = value if isinstance(value, Iterable) else (value,)
        return whole(name, number)
    except ValueError:
        raise ValueError(f"{name} must be one whole number >= 1, got {value!r}") from None
