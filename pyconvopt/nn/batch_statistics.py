"""Batch normalisation with other statistics: of parts of a batch, corrected, or of no batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .. import functional
from .batchnorm import BatchNorm2d

Bound = float | Callable[[int], float]


class GhostBatchNorm2d(BatchNorm2d):
    """Batch norm over ghost batches: in training each part of a batch has statistics of its own.

    A batch of N is cut into ⌈N / ghost_size⌉ parts whose sizes differ by at most one, each is
    normalised by itself, and the running statistics take in one part after the other, as they
    would from batches of that size. Evaluation is BatchNorm2d's.

    Args: num_features, ghost_size (32), then as BatchNorm2d: eps, momentum, affine,
    track_running_stats.

    Source: Hoffer, Hubara and Soudry 2017, "Train longer, generalize better".

    >>> import torch, pyconvopt as pco
    >>> pco.nn.GhostBatchNorm2d(3, ghost_size=8)(torch.randn(20, 3, 4, 4)).shape
    torch.Size([20, 3, 4, 4])
    """

    def __init__(
        self,
        num_features: int,
        ghost_size: int = 32,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        if not isinstance(ghost_size, int) or ghost_size < 1:
            raise ValueError(f"ghost_size must be a whole number >= 1, got {ghost_size!r}")
        self.ghost_size = ghost_size

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        parts = -(-len(input) // self.ghost_size)
        if not self.training or parts < 2:
            return super().forward(input)
        forward = super().forward
        return torch.cat([forward(part) for part in input.tensor_split(parts)])

    def extra_repr(self) -> str:  # noqa: D102
        return f"{super().extra_repr()}, ghost_size={self.ghost_size}"


def bounds(r_max: Bound, d_max: Bound, step: int) -> tuple[float, float]:
    """(r_max, d_max) of batch renormalisation at that training batch."""
    r, d = (float(each(step)) if callable(each) else each for each in (r_max, d_max))
    if not (r >= 1 and d >= 0):
        raise ValueError(f"r_max must be 1 or more and d_max 0 or more, got {r} and {d}")
    return r, d


def renormalized(
    x: Tensor,
    running: tuple[Tensor, Tensor],
    affine: tuple[Tensor | None, Tensor | None],
    limits: tuple[float, float],
    eps: float,
) -> tuple[Tensor, Tensor]:
    """The weight and bias with which batch norm of x, channels on axis 1, is renormalised.

    (x̂·r + d)·weight + bias is batch norm with other weights: one pass of the kernel.
    """
    (mean_so_far, variance_so_far), (weight, bias), (r_max, d_max) = running, affine, limits
    with torch.no_grad():
        others = [axis for axis in range(x.dim()) if axis != 1]
        variance, mean = torch.var_mean(x, dim=others, correction=0)
        deviation = (variance_so_far + eps).sqrt()
        r = ((variance + eps).sqrt() / deviation).clamp(1 / r_max, r_max)
        d = ((mean - mean_so_far) / deviation).clamp(-d_max, d_max)
    offset = d if weight is None else d * weight
    return r if weight is None else r * weight, offset if bias is None else offset + bias


class BatchRenorm2d(BatchNorm2d):
    """Batch renormalisation: training sees nearly what evaluation will, for small batches too.

    y = ((x - μ_B) / σ_B · r + d) · weight + bias, with

        r = clip(σ_B / σ, 1 / r_max, r_max)        d = clip((μ_B - μ) / σ, -d_max, d_max)

    taken as constants in backward; μ and σ = √(running_var + eps) are the running statistics
    before this batch. r_max = 1 and d_max = 0 is batch norm.

    Args: num_features, eps (1e-5), momentum (0.1), affine (True), r_max (3) and d_max (5): numbers,
    or functions of the number of batches seen (the paper starts at 1 and 0 and relaxes them).

    Source: Ioffe 2017, "Batch Renormalization".

    >>> import torch, pyconvopt as pco
    >>> layer = pco.nn.BatchRenorm2d(3, d_max=lambda step: min(5.0, step / 5000))
    >>> layer(torch.randn(4, 3, 5, 5)).shape
    torch.Size([4, 3, 5, 5])
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        r_max: Bound = 3.0,
        d_max: Bound = 5.0,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine)
        self.r_max = r_max
        self.d_max = d_max

    def bounds(self) -> tuple[float, float]:
        """(r_max, d_max) for the next training batch."""
        return bounds(self.r_max, self.d_max, int(self.num_batches_tracked))

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        self._check_input_dim(input)
        if input.shape[1] != self.num_features:
            raise ValueError(
                f"expected an input (N, {self.num_features}, H, W), got {tuple(input.shape)}"
            )
        if not self.training:
            return super().forward(input)
        weight, bias = renormalized(
            input,
            (self.running_mean, self.running_var),
            (self.weight, self.bias),
            self.bounds(),
            self.eps,
        )
        running_mean, running_var, _, momentum = self.statistics()
        return functional.batch_norm(
            input, running_mean, running_var, weight, bias, True, momentum, self.eps
        )

    def extra_repr(self) -> str:  # noqa: D102
        return f"{super().extra_repr()}, r_max={self.r_max}, d_max={self.d_max}"


def filter_response_norm(
    x: Tensor, weight: Tensor, bias: Tensor, tau: Tensor | None, eps: float | Tensor
) -> Tensor:
    """max(weight · x / √(mean of x² over H and W + eps) + bias, tau), vectors one number a channel."""

    def channels(vector: Tensor) -> Tensor:
        return vector[:, None, None]

    power = x.square().mean(dim=(2, 3), keepdim=True)
    power = power + (channels(eps) if isinstance(eps, Tensor) else eps)
    y = torch.addcmul(channels(bias), x * power.rsqrt(), channels(weight))
    return y if tau is None else torch.maximum(y, channels(tau))


class FilterResponseNorm2d(nn.Module):
    """Filter response normalisation, free of the batch, with its thresholded linear unit (TLU).

    y = max(weight · x / √(ν² + eps) + bias, tau), ν² the mean of x² over one sample's channel.

    Args: num_features, eps (1e-6), learned_eps (False; True adds a parameter, |eps| + its size:
    for maps of a single pixel, where ν² = x²), tlu (True: the maximum with tau, which takes the
    place of the activation; False: none).

    Shapes: (N, C, H, W), unchanged. Parameters: weight, bias, tau (C,).

    Source: Singh and Krishnan 2020, "Filter Response Normalization Layer".

    >>> import torch, pyconvopt as pco
    >>> y = pco.nn.FilterResponseNorm2d(1)(torch.tensor([[[[3.0, -4.0]]]]))
    >>> [round(value, 3) for value in y.flatten().tolist()]  # 3 / √12.5; the maximum with 0
    [0.849, 0.0]
    """

    def __init__(
        self, num_features: int, eps: float = 1e-6, learned_eps: bool = False, tlu: bool = True
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.tau = nn.Parameter(torch.zeros(num_features)) if tlu else None
        self.extra_eps = nn.Parameter(torch.full((num_features,), 1e-4)) if learned_eps else None

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        if input.dim() != 4 or input.shape[1] != self.num_features:
            raise ValueError(
                f"expected an input (N, {self.num_features}, H, W), got {tuple(input.shape)}"
            )
        eps = self.eps if self.extra_eps is None else self.eps + self.extra_eps.abs()
        return filter_response_norm(input, self.weight, self.bias, self.tau, eps)

    def extra_repr(self) -> str:  # noqa: D102
        return (
            f"{self.num_features}, eps={self.eps}, learned_eps={self.extra_eps is not None}, "
            f"tlu={self.tau is not None}"
        )
