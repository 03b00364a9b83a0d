"""Normalisation of each sample by itself, in training and evaluation alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as torch_functional
from torch import Tensor
from typing_extensions import override

from pyconvopt.layers.base import Shape, to_array_axes, to_torch_axes
from pyconvopt.layers.normalization import AffineNormalization


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
        if not isinstance(groups, int) or (groups < 1 and groups != -1):
            raise ValueError(f"groups must be a whole number >= 1, or -1, got {groups!r}")
        self.groups = groups
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
