"""Batch normalisation with Keras' conventions.

Two differences from torch, both of name rather than of idea: Keras' momentum is the share of the
old statistic that stays (0.99), torch's the share of the new one that enters (0.01); and Keras
feeds the moving variance with the batch's own variance (Σ/n), torch with the unbiased one
(Σ/(n - 1)). Weights trained here therefore evaluate as they would in Keras.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from pyconvopt import constraints, functional, initializers, regularizers
from pyconvopt.autograd.recompute import UnstoredMap
from pyconvopt.functional.unstored import unstored_batch_norm
from pyconvopt.layers.base import Layer, Shape, filled, number
from pyconvopt.nn.sync_batchnorm import has_others, synchronized_batch_norm


class AffineNormalization(Layer):
    """What the normalisations share: epsilon, and a scale (gamma) and an offset (beta) a channel.

    They are the parameters `weight` and `bias`, torch's names, so that attached tools find them.
    """

    axis: int

    def __init__(
        self,
        epsilon: float,
        center: bool,
        scale: bool,
        initial: tuple[Any, Any],
        penalties: tuple[Any, Any],
        limits: tuple[Any, Any],
        input_shape: Sequence[int] | None,
        name: str | None,
    ) -> None:
        super().__init__(name, input_shape)
        self.epsilon = number("epsilon", epsilon, 0)
        self.center = center
        self.scale = scale
        self.beta_initializer, self.gamma_initializer = map(initializers.get, initial)
        self.beta_regularizer, self.gamma_regularizer = map(regularizers.get, penalties)
        self.beta_constraint, self.gamma_constraint = map(constraints.get, limits)

    @override
    def compute_output_shape(self, input_shape: Shape) -> Shape:
        if self.axis not in (-1, len(input_shape) - 1):
            raise ValueError(f"{self.name} normalises the last axis (axis=-1), got {self.axis}")
        if not input_shape[-1]:
            raise ValueError(f"{self.name} needs to know the number of channels")
        return input_shape

    @override
    def make_weights(self, input_shape: Shape) -> None:
        channels = int(input_shape[-1] or 0)
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)
        if self.scale:
            self.add_weight(
                "weight",
                torch.empty(channels),
                self.gamma_initializer,
                self.gamma_regularizer,
                self.gamma_constraint,
            )
        if self.center:
            self.add_weight(
                "bias",
                torch.empty(channels),
                self.beta_initializer,
                self.beta_regularizer,
                self.beta_constraint,
            )

    @override
    def flops(self) -> int | None:
        return self.elements(2)

    @override
    def keras_weights(self) -> list[tuple[str, Tensor]]:
        if not self.built:
            return []
        named = [("gamma", self.weight)] if self.scale else []
        return named + ([] if self.bias is None else [("beta", self.bias)])


class BatchNormalization(AffineNormalization):
    """y = gamma · (x - mean) / √(variance + epsilon) + beta, channel by channel.

    In training mean and variance are the batch's own, over N, H and W, and the moving ones follow:
    moving = momentum · moving + (1 - momentum) · batch. In evaluation the moving ones are used.

    Shapes: (N, H, W, C) or (N, features), unchanged.

    Args: axis (-1, the only one), momentum (0.99), epsilon (1e-3), center (True: has beta), scale
    (True: has gamma), the initialisers, regularisers and constraints of each, synchronized (False;
    True: where several processes train, the batch is that of all of them).

    Parameters: `weight` (gamma) and `bias` (beta); buffers `running_mean`, `running_var`: torch's
    names, so that attached tools find them.

    Errors: ValueError for a training batch with one value a channel: it has no variance.

    >>> layer = BatchNormalization()
    >>> layer.build((None, 26, 26, 32))
    >>> layer.count_params()
    128

    Source: Ioffe and Szegedy 2015, "Batch Normalization".
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        synchronized: bool = False,
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
        self.momentum = number("momentum", momentum)
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must lie in 0 ... 1, got {momentum}")
        self.synchronized = synchronized
        self.moving_mean_initializer = initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = initializers.get(moving_variance_initializer)

    @override
    def make_weights(self, input_shape: Shape) -> None:
        super().make_weights(input_shape)
        channels = int(input_shape[-1] or 0)
        mean, variance = torch.empty(channels), torch.empty(channels)
        self.register_buffer("running_mean", filled(mean, self.moving_mean_initializer))
        self.register_buffer("running_var", filled(variance, self.moving_variance_initializer))

    def uses_batch_statistics(self) -> bool:
        """In training, unless the layer is frozen: then Keras evaluates it."""
        return self.training and self.is_trainable

    def uses_joined_batch(self) -> bool:
        """Whether that batch is spread over several processes."""
        return self.synchronized and self.uses_batch_statistics() and has_others()

    def scale_and_offset(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """What the normalised input is multiplied by, and what is added to it."""
        return self.weight, self.bias

    @override
    def call(
        self,
        x: Tensor,
        activation: str | None = None,
        pool: bool = False,
        dropout: float = 0.0,
        moments: Tensor | None = None,
    ) -> Tensor:
        if self.uses_joined_batch():
            y = synchronized_batch_norm(
                x if x.dim() in (2, 4) else x.movedim(-1, 1),
                (self.running_mean, self.running_var),
                (self.weight, self.bias),
                1 - self.momentum,
                self.epsilon,
                correction=0,
            )
            return y if x.dim() in (2, 4) else y.movedim(1, -1)
        y = self.run(
            functional.batch_norm,
            x if x.dim() in (2, 4) else x.movedim(-1, 1),
            activation=activation,
            pool=pool,
            dropout=dropout,
            moments=moments,
        )
        return y if x.dim() in (2, 4) else y.movedim(1, -1)

    def unstored(
        self, x: Tensor, activation: str | None = None, moments: Tensor | None = None
    ) -> Tensor | UnstoredMap:
        """`call` for a result that one convolution or max-pool alone reads."""
        return self.run(unstored_batch_norm, x, activation=activation, moments=moments)

    def run(self, function: Callable[..., Any], x: Tensor, **options: Any) -> Any:
        """`functional.batch_norm`, or its kin, of x with channels on axis 1."""
        training = self.uses_batch_statistics()
        values = x.numel() // x.shape[1]
        if training and values == 1:
            raise ValueError(
                f"{self.name} got one value a channel in training (a batch of one, "
                f"{tuple(x.shape)}); the variance of a batch needs at least two"
            )
        before = self.running_var.clone() if training and values else None
        y = function(
            x,
            self.running_mean,
            self.running_var,
            *self.scale_and_offset(x),
            training,
            1 - self.momentum,
            self.epsilon,
            **options,
        )
        if before is not None:
            # The kernel let (1 - m) · v · n / (n - 1) in; Keras wants (1 - m) · v. Through .data:
            # backward does not read the moving variance, so its version need not change.
            share = (values - 1) / values
            self.running_var.data.mul_(share).add_(before, alpha=self.momentum * (1 - share))
        return y

    @override
    def keras_weights(self) -> list[tuple[str, Tensor]]:
        if not self.built:
            return []
        moving = [("moving_mean", self.running_mean), ("moving_variance", self.running_var)]
        return super().keras_weights() + moving
