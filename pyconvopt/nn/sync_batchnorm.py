"""Batch normalisation over the batches of all processes, on the CPU too.

torch's own SyncBatchNorm wants an accelerator, and DistributedDataParallel refuses every subclass
of it on the CPU: the one here is a class beside it, of the same arguments, state and results.

Every process contributes its count, mean and mean square a channel, in double, to one all-reduce;
the gradient of that sum is again a sum over all processes. So forward and backward each take one
message of 2·C + 1 numbers.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from .. import functional
from .batchnorm import BatchNorm2d


class SumOverProcesses(Function):
    """Σ of a tensor over the group; the gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx, x, group):  # noqa: D102
        ctx.group = group
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx, g):  # noqa: D102
        return SumOverProcesses.apply(g, ctx.group), None


class SyncBatchNorm(torch.nn.modules.batchnorm._BatchNorm):
    """``torch.nn.SyncBatchNorm`` that works on CPUs (gloo) as on other devices.

    In training mean and variance are those of the joined batch of all processes of the group;
    gradients of weight and bias are the process' own, as `DistributedDataParallel` wants them.
    Without a process group, and in evaluation, it is batch normalisation.

    Shapes: (N, C, ...), unchanged; the processes' batches may differ in size.

    Errors: ValueError for a joined batch with one value a channel, or an input of one axis.

    >>> import torch, pyconvopt as pco
    >>> pco.nn.SyncBatchNorm(8)(torch.randn(4, 8, 5, 5)).shape
    torch.Size([4, 8, 5, 5])
    """

    statistics = BatchNorm2d.statistics

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Any = None,
        dtype: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, **options
        )
        self.process_group = process_group

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        self._check_input_dim(input)
        mean, variance, use_batch, momentum = self.statistics()
        group = self.process_group or (dist.group.WORLD if dist.is_initialized() else None)
        if not self.training or group is None or dist.get_world_size(group) == 1:
            return functional.batch_norm(
                input, mean, variance, self.weight, self.bias, use_batch, momentum, self.eps
            )
        count, joined_mean, joined_variance = joined_moments(input, group)
        if mean is not None and variance is not None:
            with torch.no_grad():
                unbiased = joined_variance * (count / (count - 1))
                mean.lerp_(joined_mean.to(mean.dtype), momentum)
                variance.lerp_(unbiased.to(variance.dtype), momentum)
        scale = (joined_variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        shape = (1, -1, *[1] * (input.dim() - 2))
        y = (input - joined_mean.to(input.dtype).view(shape)) * scale.to(input.dtype).view(shape)
        return y if self.bias is None else y + self.bias.view(shape)

    @classmethod
    def convert_sync_batchnorm(cls, module: Any, process_group: Any = None) -> Any:
        """The model with every batch norm made one of these; torch's method of that name."""
        converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(module, process_group)
        for each in converted.modules():
            if type(each) is torch.nn.SyncBatchNorm:
                each.__class__ = cls  # type: ignore[assignment]
        return converted


def joined_moments(x: Tensor, group: Any) -> tuple[float, Tensor, Tensor]:
    """(values a channel, mean, biased variance) over all processes, in double, differentiable."""
    axes = [0, *range(2, x.dim())]
    count = x.numel() // x.shape[1]
    if count:
        variance, mean = torch.var_mean(x, dim=axes, correction=0)
    else:
        variance = mean = x.sum(dim=axes)
    mean, variance = mean.double(), variance.double()
    own = torch.cat([mean * count, (variance + mean.square()) * count, mean.new_tensor([count])])
    sums, squares, counts = SumOverProcesses.apply(own, group).split([len(mean), len(mean), 1])
    total = float(counts.detach())
    if total < 2:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {x.size()}"
        )
    joined = sums / total
    return total, joined, squares / total - joined.square()
