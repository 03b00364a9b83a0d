"""Dropout of values, channels, squares and whole samples. In evaluation all of them do nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from typing_extensions import override

from pyconvopt import functional
from pyconvopt import nn as modules
from pyconvopt.data.checks import whole
from pyconvopt.layers.base import Layer, number, number_or_schedule


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
        self.rate = number("rate", rate)
        if not 0 <= rate < 1:
            raise ValueError(f"rate must lie in 0 ... 1, 1 left out, got {rate}")

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
        self.whole_channels = modules.Dropout2d(rate)

    @override
    def call(self, x: Tensor) -> Tensor:
        self.whole_channels.p = self.rate
        return self.whole_channels(x)


class DropBlock2D(Dropout):
    """Squares of each channel are zeroed, a share `rate` of the map on average; the mean stays.

    Formula: `pyconvopt.nn.DropBlock2d`. Shapes: (N, H, W, C), unchanged.

    Args: rate (0.1), block_size (7: the side of a square; cut to the map where that is smaller).

    >>> import torch
    >>> DropBlock2D(0.1, block_size=3).eval()(torch.ones(1, 1, 2, 2)).sum()
    tensor(4.)

    Source: Ghiasi, Lin and Le 2018, "DropBlock: A regularization method for convolutional
    networks".
    """

    ranks = (4,)

    def __init__(
        self,
        rate: float = 0.1,
        block_size: int = 7,
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(rate, input_shape=input_shape, name=name)
        self.block_size = whole("block_size", block_size)
        self.blocks = modules.DropBlock2d(self.rate, self.block_size)

    @override
    def call(self, x: Tensor) -> Tensor:
        self.blocks.p = self.rate
        return self.blocks(x)


class DropPath(Dropout):
    """A sample is zeroed whole with probability `rate`, else divided by 1 - rate: stochastic depth.

    It is the last layer of a branch of `Residual`, which then is left out for that sample.

    >>> import torch
    >>> DropPath(0.5).eval()(torch.ones(1, 2))
    tensor([[1., 1.]])

    Source: Huang et al. 2016, "Deep Networks with Stochastic Depth".
    """

    def __init__(
        self,
        rate: float,
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(rate, input_shape=input_shape, name=name)
        self.whole_samples = modules.DropPath(rate)

    @override
    def call(self, x: Tensor) -> Tensor:
        self.whole_samples.p = self.rate
        return self.whole_samples(x)


class ScheduledDropout(Layer):
    """Dropout whose rate follows the training passes seen; see `pyconvopt.nn.ScheduledDropout`.

    Args: rate (0.5: reached at the end of a straight rise from 0; or a function of the step, such
    as a schedule), steps (0: the length of that rise).

    The count of passes is saved with the model. A rate that is a function of your own is not.

    >>> layer = ScheduledDropout(0.4, steps=100)
    >>> layer.rate, layer.scheduled.probability()
    (0.4, 0.0)

    Source: Zoph et al. 2018, "Learning Transferable Architectures for Scalable Image Recognition".
    """

    is_dropout = True

    def __init__(
        self,
        rate: Any = 0.5,
        steps: int = 0,
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name, input_shape)
        self.rate = number_or_schedule("rate", rate)
        self.steps = steps
        self.scheduled = modules.ScheduledDropout(self.rate, steps)

    @override
    def call(self, x: Tensor) -> Tensor:
        return self.scheduled(x)
