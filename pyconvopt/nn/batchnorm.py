"""Batch normalisation modules."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import functional
from .scripting import scriptable


@scriptable
class BatchNorm2d(torch.nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` on this library's kernels: same arguments, buffers and results.

    Formula and shapes: `pyconvopt.functional.batch_norm`.

    >>> import torch, pyconvopt as pco
    >>> layer = pco.nn.BatchNorm2d(8)
    >>> layer(torch.randn(4, 8, 5, 5)).shape, layer.num_batches_tracked.item()
    (torch.Size([4, 8, 5, 5]), 1)
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        self._check_input_dim(input)
        mean, var, use_batch, momentum = self.statistics()
        return functional.batch_norm(
            input, mean, var, self.weight, self.bias, use_batch, momentum, self.eps
        )

    def statistics(
        self: torch.nn.modules.batchnorm._BatchNorm,
    ) -> tuple[Tensor | None, Tensor | None, bool, float]:
        """What this call normalises with: running mean and variance, whether by the batch, momentum.

        Counts the batch where the module tracks statistics in training, as torch's forward does.
        """
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:  # cumulative moving average
                momentum = 1.0 / float(self.num_batches_tracked)
        use_batch = self.training or (self.running_mean is None and self.running_var is None)
        tracked = not self.training or self.track_running_stats
        mean = self.running_mean if tracked else None
        var = self.running_var if tracked else None
        return mean, var, use_batch, momentum
