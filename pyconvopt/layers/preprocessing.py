"""Layers that learn from the images themselves, before training: `model.adapt(train_images)`.

What they learn is saved with the model, so that `predict` takes images as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from pyconvopt.data import checks
from pyconvopt.layers.base import Layer, Shape, number
from pyconvopt.layers.convolution import Conv2D
from pyconvopt.whitening import patch_whitening_

EPSILON = 1e-7  # the least deviation that is divided by, as in Keras
PART = 4096  # samples whose sums are taken at once


def samples_for(layer: Layer, data: Any) -> Any:
    """The images to adapt to; the layer is built for them if it is not yet."""
    samples = checks.as_samples(data)
    checks.require_samples(samples, "images")
    if not layer.built:
        layer.build((None, *samples.shape[1:]))
    return samples


def mean_and_variance(samples: Any) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance of the last axis' entries over all others, in double.

    Parts are joined by the differences of their means, so nothing is lost to large sums.

    Source: Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance".
    """
    count, mean, squares = 0, torch.zeros(()).double(), torch.zeros(()).double()
    for start in range(0, len(samples), PART):
        part = samples[start : start + PART].double().flatten(end_dim=-2)
        variance, part_mean = torch.var_mean(part, dim=0, correction=0)
        total = count + len(part)
        gap = part_mean - mean
        squares = squares + variance * len(part) + gap**2 * (count * len(part) / total)
        mean = mean + gap * (len(part) / total)
        count = total
    return mean, squares / count


class Adapting:
    """What such layers share. `samples_to_adapt`: how many images are enough (None: all count)."""

    samples_to_adapt: ClassVar[int | None] = None

    def learns(self) -> bool:
        """Whether there is something to learn that was not given."""
        return getattr(self, "mean", None) is None

    def adapt(self, data: Any) -> None:
        """Learn from images as the layer will get them, channels last."""
        raise NotImplementedError


class Normalization(Adapting, Layer):
    """(x - mean) / √variance, channel by channel, with the training images' mean and variance.

    `adapt(images)` finds them; or they are given as `mean` and `variance`. Before that they are 0
    and 1. They are buffers, saved with the model and never trained.

    Args: axis (-1: a mean and a variance a channel; None: one of all values), mean, variance (None;
    numbers, one or one a channel), invert (False; True: mean + x · √variance).
    Shapes: unchanged, channels last.

    Errors: ValueError for another axis, a mean without a variance, a variance below 0, data of
    other channels or with NaN, or `adapt` where they are given.

    >>> layer = Normalization()
    >>> layer.adapt(np.array([[0.0, 4.0], [2.0, 8.0]]))
    >>> layer(torch.tensor([[2.0, 4.0]]))
    tensor([[ 1., -1.]])
    """

    mean_of_data: Tensor
    variance_of_data: Tensor

    def __init__(
        self,
        axis: int | None = -1,
        mean: Any = None,
        variance: Any = None,
        invert: bool = False,
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name, input_shape)
        if axis not in (-1, None):
            raise ValueError(f"axis must be -1 (the channels) or None, got {axis}")
        if (mean is None) != (variance is None):
            raise ValueError("mean and variance are given together, got only one of them")
        self.axis = axis
        self.mean = numbers(mean)
        self.variance = numbers(variance)
        if variance is not None and not np.all(np.asarray(self.variance) >= 0):
            raise ValueError(f"variance must be 0 or more, got {self.variance}")
        self.invert = invert

    @override
    def make_weights(self, input_shape: Shape) -> None:
        channels = input_shape[-1]
        if not channels:
            raise ValueError(f"{self.name} needs to know the number of channels")
        size = () if self.axis is None else (channels,)
        for key, given, start in (
            ("mean_of_data", self.mean, 0.0),
            ("variance_of_data", self.variance, 1.0),
        ):
            values = torch.tensor(start if given is None else given, dtype=torch.float32)
            if values.dim() and values.shape != size:
                raise ValueError(
                    f"{self.name}: got {tuple(values.shape)} numbers for {channels} channels"
                )
            self.register_buffer(key, values.expand(size).clone())

    @override
    def adapt(self, data: Any) -> None:
        """Take mean and variance from images as the layer will get them, channels last."""
        if self.mean is not None:
            raise ValueError(f"{self.name} was given its mean and variance and learns none")
        samples = samples_for(self, data)
        if samples.shape[-1] != self.channels():
            raise ValueError(
                f"{self.name} was built for {self.channels()} channels, got data of shape "
                f"{tuple(samples.shape)}"
            )
        mean, variance = mean_and_variance(samples)
        if not bool(mean.isfinite().all()):
            raise ValueError(
                "the images hold values that are NaN or infinite; wanted finite numbers"
            )
        if self.axis is None:
            # The channels' own variance, and that of their means.
            variance = variance.mean() + mean.var(correction=0)
            mean = mean.mean()
        self.mean_of_data.copy_(mean)
        self.variance_of_data.copy_(variance)

    @override
    def call(self, x: Tensor) -> Tensor:
        deviation = self.variance_of_data.sqrt().clamp(min=EPSILON)
        shift = self.mean_of_data
        if self.invert:
            scale = deviation
        else:
            scale = 1 / deviation
            shift = -shift * scale
        if x.dim() == 4 and shift.dim():  # N, C, H, W
            scale, shift = scale[:, None, None], shift[:, None, None]
        return torch.addcmul(shift, x, scale)

    @override
    def flops(self) -> int | None:
        return self.elements(2)

    @override
    def keras_weights(self) -> list[tuple[str, Tensor]]:
        """Mean and variance; Keras has a count besides, which it does not use."""
        if not self.built:
            return []
        return [("mean", self.mean_of_data), ("variance", self.variance_of_data)]


def numbers(values: Any) -> Any:
    """Numbers as JSON can hold them: a float, or a list of them; None stays None."""
    return None if values is None else np.asarray(values, np.float64).tolist()


class PatchWhitening(Adapting, Conv2D):
    """A first convolution whose filters whiten the patches of the images, and are not trained.

    `adapt(images)` computes them, see `initializers.patch_whitening_`: the outputs are
    uncorrelated, largest variance first, and a second half has the opposite sign, so that a ReLU
    loses nothing. The weights are frozen (`trainable` is False), so no gradient is computed for
    them.

    Args: filters (at most 2 · channels · kh · kw), kernel_size (3), eps (5e-4: added to each
    variance, in the square of the input's unit; smaller ones are noise), strides (1), padding
    ('valid'), activation (None), use_bias (False).
    Shapes: as Conv2D.

    Errors: ValueError for more filters than the patches give.

    >>> layer = PatchWhitening(8, 2)
    >>> layer.adapt(torch.rand(100, 8, 8, 1))
    >>> layer.output_shape, layer.trainable
    ((None, 7, 7, 8), False)

    Source: Page 2019, "How to Train Your ResNet" (myrtle.ai); Jordan 2024, arXiv:2404.00498.
    """

    samples_to_adapt: ClassVar[int | None] = 5000

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int] = 3,
        eps: float = 5e-4,
        strides: int | Sequence[int] = (1, 1),
        padding: str = "valid",
        activation: Any = None,
        use_bias: bool = False,
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(
            filters,
            kernel_size,
            strides,
            padding,
            activation=activation,
            use_bias=use_bias,
            input_shape=input_shape,
            name=name,
        )
        self.eps = number("eps", eps, 0)
        self.is_trainable = False

    @override
    def make_weights(self, input_shape: Shape) -> None:
        most = 2 * (input_shape[-1] or 0) * self.kernel_size[0] * self.kernel_size[1]
        if self.filters > most:
            raise ValueError(
                f"{self.name}: patches of this size give {most} whitening filters, got "
                f"filters={self.filters}"
            )
        super().make_weights(input_shape)

    @override
    def adapt(self, data: Any) -> None:
        """Compute the filters from some thousand images as the layer will get them."""
        samples = samples_for(self, data)
        patch_whitening_(self.weight, samples[:], self.eps)
