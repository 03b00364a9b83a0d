"""Noise in training: multiplied, added, or of dropout that keeps SELU's statistics."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from typing_extensions import override

from pyconvopt.functional.activation import SELU_ALPHA, SELU_SCALE
from pyconvopt.functional.noise import kept_like, normal_like
from pyconvopt.layers.base import Layer, number
from pyconvopt.layers.dropout import Dropout

SELU_LIMIT = -SELU_ALPHA * SELU_SCALE


class GaussianDropout(Dropout):
    """x · N(1, √(rate / (1 - rate))) in training: dropout's mean and variance, without zeros.

    Source: Srivastava et al. 2014, section 10.
    """

    @override
    def call(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        deviation = (self.rate / (1 - self.rate)) ** 0.5
        return x * normal_like(x, "gaussian_dropout").mul_(deviation).add_(1)


class AlphaDropout(Dropout):
    """Dropout that sets values to SELU's limit and keeps mean 0 and variance 1.

    In training y = a·(x·b + α'·(1 - b)) + c with b Bernoulli(1 - rate), α' = -1.7581,
    a = ((1 - rate)·(1 + rate·α'²))^-½ and c = -a·α'·rate.

    Source: Klambauer et al. 2017, "Self-Normalizing Neural Networks".
    """

    @override
    def call(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        p, dropped = self.rate, SELU_LIMIT
        scale = ((1 - p) * (1 + p * dropped**2)) ** -0.5
        kept = kept_like(x, p, "alpha_dropout")
        return x * (kept * scale) + (1 - kept) * (dropped * scale) - scale * dropped * p


class GaussianNoise(Layer):
    """x + N(0, stddev) in training, against overfitting.

    >>> import torch
    >>> GaussianNoise(0.1).eval()(torch.ones(1, 2))
    tensor([[1., 1.]])
    """

    def __init__(
        self,
        stddev: float,
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name, input_shape)
        self.stddev = number("stddev", stddev, 0)

    @override
    def call(self, x: Tensor) -> Tensor:
        if not self.training or self.stddev == 0:
            return x
        return x + normal_like(x, "gaussian_noise").mul_(self.stddev)

    @override
    def flops(self) -> int | None:
        return 0
