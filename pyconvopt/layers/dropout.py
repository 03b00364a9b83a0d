"""Dropout of single values and of whole channels. In evaluation both do nothing."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from typing_extensions import override

from pyconvopt import functional
from pyconvopt.layers.base import Layer
from pyconvopt.nn import Dropout2d


class Dropout(Layer):
    """Each value is zeroed with probability `rate`, the others divided by 1 - rate.

    `fit` draws by its seed, the step, the layer and the element's number (see `draws`), outside it
    torch.manual_seed rules.

    >>> Dropout(0.5).rate
    0.5

    Source: Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting".
    """

    is_dropout = True  # `nn.monte_carlo_dropout` looks for it

    def __init__(
        self,
        rate: float,
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name, input_shape)
        if not 0 <= rate < 1:
            raise ValueError(f"rate must lie in 0 ... 1, 1 left out, got {rate}")
        self.rate = rate

    @override
    def call(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.rate, self.training) if self.training else x

    @override
    def flops(self) -> int | None:
        return 0


class SpatialDropout2D(Dropout):
    """Each channel of each image is zeroed whole with probability `rate`, else divided by 1 - rate.

    Neighbouring pixels say nearly the same, so dropping them singly removes little; see
    Tompson et al. 2015, "Efficient Object Localization Using Convolutional Networks".

    Shapes: (N, H, W, C), unchanged.
    """

    ranks = (4,)

    def __init__(
        self,
        rate: float,
        data_format: str | None = None,
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(rate, input_shape=input_shape, name=name)
        self.whole_channels = Dropout2d(rate)

    @override
    def call(self, x: Tensor) -> Tensor:
        return self.whole_channels(x)
