"""Batch normalisation over parts of a batch, and corrected by the moving statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from pyconvopt.data.checks import whole
from pyconvopt.layers.base import Shape, number_or_schedule
from pyconvopt.layers.normalization import BatchNormalization
from pyconvopt.nn.batch_statistics import bounds, renormalized


class GhostBatchNormalization(BatchNormalization):
    """BatchNormalization whose training batches are cut into ghost batches, each by itself.

    A batch of N becomes ⌈N / ghost_size⌉ parts whose sizes differ by at most one; the moving
    statistics take in one part after the other. Evaluation is BatchNormalization's.

    Args: ghost_size (32), then as BatchNormalization without synchronized.

    >>> GhostBatchNormalization(8)(torch.randn(20, 3, 4, 4)).shape
    torch.Size([20, 3, 4, 4])

    Source: Hoffer, Hubara and Soudry 2017, "Train longer, generalize better".
    """

    def __init__(
        self,
        ghost_size: int = 32,
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
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(
            axis, momentum, epsilon, center, scale, beta_initializer, gamma_initializer,
            moving_mean_initializer, moving_variance_initializer, beta_regularizer,
            gamma_regularizer, beta_constraint, gamma_constraint,
            input_shape=input_shape, name=name,
        )  # fmt: skip
        self.ghost_size = whole("ghost_size", ghost_size)

    @override
    def uses_joined_batch(self) -> bool:
        return False  # parts of a batch are small on purpose

    @override
    def call(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        parts = -(-len(x) // self.ghost_size)
        if not self.uses_batch_statistics() or parts < 2:
            return super().call(x, *args, **options)
        call = super().call
        return torch.cat([call(part, *args, **options) for part in x.tensor_split(parts)])


class BatchRenormalization(BatchNormalization):
    """Batch renormalisation: training sees nearly what evaluation will, for small batches too.

    y = gamma · ((x - μ_B) / σ_B · r + d) + beta, r = clip(σ_B / σ, 1 / r_max, r_max) and
    d = clip((μ_B - μ) / σ, -d_max, d_max) taken as constants in backward; μ and σ are the moving
    mean and √(moving variance + epsilon) before this batch. Evaluation is BatchNormalization's.

    Args: r_max (3) and d_max (5), numbers or functions of the number of batches seen, such as
    schedules (the paper starts at 1 and 0 and relaxes them); then as BatchNormalization without
    synchronized.

    >>> layer = BatchRenormalization(r_max=1.0, d_max=0.0)  # batch norm
    >>> layer(torch.tensor([[1.0], [3.0]])).detach()
    tensor([[-0.9995],
            [ 0.9995]])

    Source: Ioffe 2017, "Batch Renormalization".
    """

    num_batches_tracked: Tensor

    def __init__(
        self,
        r_max: Any = 3.0,
        d_max: Any = 5.0,
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
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(
            axis, momentum, epsilon, center, scale, beta_initializer, gamma_initializer,
            moving_mean_initializer, moving_variance_initializer, beta_regularizer,
            gamma_regularizer, beta_constraint, gamma_constraint,
            input_shape=input_shape, name=name,
        )  # fmt: skip
        self.r_max = number_or_schedule("r_max", r_max)
        self.d_max = number_or_schedule("d_max", d_max)
        bounds(self.r_max, self.d_max, 0)

    @override
    def make_weights(self, input_shape: Shape) -> None:
        super().make_weights(input_shape)
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.int64))

    @override
    def uses_joined_batch(self) -> bool:
        return False  # the moving statistics stand in for more samples

    @override
    def scale_and_offset(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if not self.uses_batch_statistics():
            return self.weight, self.bias
        r_max, d_max = bounds(self.r_max, self.d_max, int(self.num_batches_tracked))
        self.num_batches_tracked.add_(1)
        rows = x if x.dim() in (2, 4) else x.movedim(-1, 1)
        return renormalized(
            rows,
            (self.running_mean, self.running_var),
            (self.weight, self.bias),
            (r_max, d_max),
            self.epsilon,
        )
