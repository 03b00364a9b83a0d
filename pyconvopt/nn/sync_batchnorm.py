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
from torch.nn.modules.batchnorm import _BatchNorm

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


class SyncBatchNorm(_BatchNorm):
    """``torch.nn.SyncBatchNorm`` that works on CPUs (gloo) as on other devices.

    No subclass of it, because `DistributedDataParallel` refuses those on a CPU.

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
        moving, affine = (mean, variance), (self.weight, self.bias)
        if self.training and has_others(self.process_group):
            return synchronized_batch_norm(
                input, moving, affine, momentum, self.eps, self.process_group
            )
        return functional.batch_norm(input, *moving, *affine, use_batch, momentum, self.eps)

    @classmethod
    def convert_sync_batchnorm(cls, module: Any, process_group: Any = None) -> Any:
        """The model with every batch norm made one of these; torch's method of that name."""
        converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(module, process_group)
        for each in converted.modules():
            if type(each) is torch.nn.SyncBatchNorm:
                each.__class__ = cls  # type: ignore[assignment]
        return converted


def has_others(group: Any = None) -> bool:
    """Whether the group (None: all processes) is more than this one."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1


def joined_size(size: int) -> int:
    """The samples of a batch, from those of every process' part."""
    total = torch.tensor(float(size))
    dist.all_reduce(total)
    return int(total)


def synchronized_batch_norm(
    x: Tensor,
    moving: tuple[Tensor | None, Tensor | None],
    affine: tuple[Tensor | None, Tensor | None],
    momentum: float,
    eps: float,
    group: Any = None,
    correction: int = 1,
) -> Tensor:
    """x normalised by the joined batch; the moving (mean, variance) follow with `momentum`.

    `correction`: the moving variance is that of Σ / (n - correction), 1 as in torch, 0 as in Keras.
    """
    (mean, variance), (weight, bias) = moving, affine
    count, joined_mean, joined_variance = joined_moments(x, group)
    if mean is not None and variance is not None:
        with torch.no_grad():
            of_moving = joined_variance * (count / (count - correction))
            mean.lerp_(joined_mean.to(mean.dtype), momentum)
            variance.lerp_(of_moving.to(variance.dtype), momentum)
    scale = (joined_variance + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    shape = (1, -1, *[1] * (x.dim() - 2))
    y = (x - joined_mean.to(x.dtype).view(shape)) * scale.to(x.dtype).view(shape)
    return y if bias is None else y + bias.view(shape)


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
