"""Normalisation of each sample by itself, in training and evaluation alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as torch_functional
from torch import Tensor
from typing_extensions import override

from pyconvopt import initializers
from pyconvopt.data.checks import whole
from pyconvopt.layers.base import Shape, to_array_axes, to_torch_axes
from pyconvopt.layers.normalization import AffineNormalization
from pyconvopt.nn.batch_statistics import filter_response_norm


class LayerNormalization(AffineNormalization):
    """y = gamma · (x - mean) / √(variance + epsilon) + beta over the last axis, place by place.

    Shapes: (N, H, W, C) or (N, features), unchanged: mean and variance of the C channels of a
    pixel.

    Args: axis (-1, the only one), epsilon (1e-3), center, scale (True), the initialisers,
    regularisers and constraints of beta and gamma.

    Source: Ba, Kiros and Hinton 2016, "Layer Normalization".
    """

    def __init__(
        self,
        axis: int = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(
            epsilon,
            center,
            scale,
            (beta_initializer, gamma_initializer),
            (beta_regularizer, gamma_regularizer),
            (beta_constraint, gamma_constraint),
            input_shape,
            name,
        )
        self.axis = axis

    @override
    def call(self, x: Tensor) -> Tensor:
        x = to_array_axes(x)
        y = torch_functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.epsilon)
        return to_torch_axes(y)


class GroupNormalization(AffineNormalization):
    """y = gamma · (x - mean) / √(variance + epsilon) + beta, statistics over a group of channels.

    Mean and variance are those of one sample's H · W · C / groups values in each group. With
    groups=-1 every channel is a group (instance normalisation), with 1 all are one.

    Shapes: (N, H, W, C) or (N, features), unchanged.

    Args: groups (32), axis (-1, the only one), epsilon (1e-3), center, scale (True), the
    initialisers, regularisers and constraints of beta and gamma.

    Errors: ValueError for channels that the groups do not divide.

    Source: Wu and He 2018, "Group Normalization".
    """

    def __init__(
        self,
        groups: int = 32,
        axis: int = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(
            epsilon,
            center,
            scale,
            (beta_initializer, gamma_initializer),
            (beta_regularizer, gamma_regularizer),
            (beta_constraint, gamma_constraint),
            input_shape,
            name,
        )
        self.groups = -1 if groups == -1 else whole("groups", groups)
        self.axis = axis

    @override
    def compute_output_shape(self, input_shape: Shape) -> Shape:
        shape = super().compute_output_shape(input_shape)
        channels = int(shape[-1] or 0)
        if self.groups > 0 and channels % self.groups:
            raise ValueError(
                f"{self.name}: {channels} channels cannot be split into {self.groups} groups"
            )
        return shape

    @override
    def call(self, x: Tensor) -> Tensor:
        groups = self.channels() if self.groups == -1 else self.groups
        x = x if x.dim() in (2, 4) else x.movedim(-1, 1)
        # torch's group_norm fails in backward with a bias but no weight, so then it is added here.
        joined = self.bias if self.scale else None
        y = torch_functional.group_norm(x, groups, self.weight, joined, self.epsilon)
        if self.bias is not None and joined is None:
            y = y + self.bias.view(-1, *[1] * (x.dim() - 2))
        return y if x.dim() in (2, 4) else y.movedim(1, -1)


class FilterResponseNormalization(AffineNormalization):
    """y = max(gamma · x / √(ν² + epsilon) + beta, tau), ν² the mean of x² over a channel's H · W.

    The thresholded linear unit, max with tau, takes the place of an activation.

    Shapes: (N, H, W, C), unchanged. Parameters: `weight` (gamma), `bias` (beta), `tau`, (C,).

    Args: epsilon (1e-6), learned_epsilon (False; True adds a parameter `extra_epsilon`, whose size
    is added to epsilon: for maps of one pixel, where ν² = x²), tlu (True; False: no maximum),
    tau_initializer ('zeros'), the initialisers, regularisers and constraints of beta and gamma.

    >>> y = FilterResponseNormalization()(torch.tensor([[[[3.0, -4.0]]]]))
    >>> y.detach().flatten()  # 3 / √12.5; the maximum with 0
    tensor([0.8485, 0.0000])

    Source: Singh and Krishnan 2020, "Filter Response Normalization Layer".
    """

    axis = -1
    ranks = (4,)
    tau: Tensor | None
    extra_epsilon: Tensor | None

    def __init__(
        self,
        epsilon: float = 1e-6,
        learned_epsilon: bool = False,
        tlu: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        tau_initializer: Any = "zeros",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(
            epsilon,
            True,
            True,
            (beta_initializer, gamma_initializer),
            (beta_regularizer, gamma_regularizer),
            (beta_constraint, gamma_constraint),
            input_shape,
            name,
        )
        self.learned_epsilon = learned_epsilon
        self.tlu = tlu
        self.tau_initializer = initializers.get(tau_initializer)

    @override
    def make_weights(self, input_shape: Shape) -> None:
        super().make_weights(input_shape)
        self.register_parameter("tau", None)
        self.register_parameter("extra_epsilon", None)
        if self.tlu:
            self.add_weight("tau", torch.empty_like(self.weight), self.tau_initializer)
        if self.learned_epsilon:
            start = initializers.Constant(1e-4)
            self.add_weight("extra_epsilon", torch.empty_like(self.weight), start)

    @override
    def call(self, x: Tensor) -> Tensor:
        epsilon: Any = self.epsilon
        if self.extra_epsilon is not None:
            epsilon = epsilon + self.extra_epsilon.abs()
        assert self.bias is not None
        return filter_response_norm(x, self.weight, self.bias, self.tau, epsilon)

    @override
    def flops(self) -> int | None:
        return self.elements(5 if self.tlu else 4)

    @override
    def keras_weights(self) -> list[tuple[str, Tensor]]:
        if not self.built:
            return []
        more = [("tau", self.tau), ("learned_epsilon", self.extra_epsilon)]
        return super().keras_weights() + [(name, each) for name, each in more if each is not None]
