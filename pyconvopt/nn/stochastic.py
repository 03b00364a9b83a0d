"""Dropout of regions, of whole branches, and by a schedule. In evaluation all three do nothing.

Masks are functions of a key and of an element's number (see `draws`), the key one of torch's generator
or, in training, of seed, step and layer: the same for a sample whatever the size of the batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from .. import functional
from ..functional.noise import kept
from ..schedules.base import Schedule


class DropBlock2d(_DropoutNd):
    """Zeroes square regions of each channel, a share `p` of the map on average.

    The corner of a region is drawn at each place where a block of size b fits, with probability
    γ = p / b² · H·W / ((H - b + 1)·(W - b + 1)); what is left is multiplied by the batch's size over
    the number of elements kept, so that its mean stays. Regions overlap, so the share zeroed is a
    little below p. A block larger than the map is cut to it. The mask is one of each sample, the
    multiplier one of the batch at hand: several processes take that of their part.

    Args: p (0.1), block_size (7), inplace (False).
    Shapes: (N, C, H, W), unchanged.

    Source: Ghiasi, Lin and Le 2018, "DropBlock: A regularization method for convolutional
    networks".

    >>> import torch, pyconvopt as pco
    >>> pco.nn.DropBlock2d(0.1, block_size=3)(torch.ones(2, 4, 8, 8)).shape
    torch.Size([2, 4, 8, 8])
    """

    def __init__(self, p: float = 0.1, block_size: int = 7, inplace: bool = False) -> None:
        super().__init__(p, inplace)
        if not isinstance(block_size, int) or block_size < 1:
            raise ValueError(f"block_size must be a whole number >= 1, got {block_size!r}")
        self.block_size = block_size

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        if input.dim() != 4:
            raise ValueError(f"expected a 4D input (N, C, H, W), got {input.dim()}D input")
        if not self.training or self.p == 0 or not input.numel():
            return input
        mask = self.draw(input)
        factor = mask * (mask.numel() / mask.sum().clamp(min=1))
        return input.mul_(factor) if self.inplace else input * factor

    def draw(self, x: Tensor) -> Tensor:
        """The mask, 1 where an element is kept."""
        height, width = x.shape[2:]
        block = (min(self.block_size, height), min(self.block_size, width))
        corners = (height - block[0] + 1, width - block[1] + 1)
        share = self.p / (block[0] * block[1]) * height * width / (corners[0] * corners[1])
        drawn = 1 - kept(x, (*x.shape[:2], *corners), min(share, 1.0), "dropblock")
        margin = (block[1] - 1, block[1] - 1, block[0] - 1, block[0] - 1)
        # Each corner spreads over its block: the largest value of every window that holds it.
        return 1 - F.max_pool2d(F.pad(drawn, margin), block, stride=1)

    def extra_repr(self) -> str:  # noqa: D102
        return f"{super().extra_repr()}, block_size={self.block_size}"


class DropPath(_DropoutNd):
    """Stochastic depth: a residual branch is left out for a whole sample with probability `p`.

    y = x · b / (1 - p), b one Bernoulli(1 - p) a sample. Used on the branch, before it is added.

    Args: p (0), scale_by_keep (True; False: y = x · b), inplace (False).
    Shapes: (N, ...), unchanged.

    Source: Huang et al. 2016, "Deep Networks with Stochastic Depth".

    >>> import torch, pyconvopt as pco
    >>> y = pco.nn.DropPath(0.5)(torch.ones(8, 3))
    >>> bool((y == y[:, :1]).all()), sorted(set(y.flatten().tolist())) <= [0.0, 2.0]
    (True, True)
    """

    def __init__(self, p: float = 0.0, scale_by_keep: bool = True, inplace: bool = False) -> None:
        super().__init__(p, inplace)
        self.scale_by_keep = scale_by_keep

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        if not input.dim():
            raise ValueError("expected an input of samples (N, ...), got a tensor of no dimensions")
        if not self.training or self.p == 0:
            return input
        factor = kept(input, (len(input), *[1] * (input.dim() - 1)), self.p, "droppath")
        if self.scale_by_keep and self.p < 1:
            factor = factor / (1 - self.p)
        return input.mul_(factor) if self.inplace else input * factor


class ScheduledDropout(_DropoutNd):
    """Dropout whose probability follows the step of training.

    Args:
        p: a function of the step that gives the probability, such as a schedule (in a `Trainer`
            also one `per_epoch()` or `over_run()`), or the probability reached at the end of a
            straight rise from 0.
        steps: the length of that rise (0: p from the start).

    The step is the buffer `step`, part of `state_dict`, so a run taken up again goes on at the
    right probability. A `Trainer` counts its updates. In a loop of your own the module counts its
    training passes; those without gradients (`monte_carlo_dropout`) do not count.

    Errors: ValueError for a probability outside 0 ... 1.

    Source: Zoph et al. 2018, "Learning Transferable Architectures for Scalable Image Recognition"
    (the straight rise); Morerio et al. 2017, "Curriculum Dropout".

    >>> import torch, pyconvopt as pco
    >>> layer = pco.nn.ScheduledDropout(0.5, steps=10)
    >>> _ = [layer(torch.ones(3)) for _ in range(4)]
    >>> layer.step.item(), layer.probability()
    (4, 0.2)
    """

    step: Tensor
    counts_passes = True

    def __init__(
        self, p: float | Callable[[int], float] = 0.5, steps: int = 0, inplace: bool = False
    ) -> None:
        if callable(p) and steps:
            raise ValueError("steps belongs to a probability; a function of the step has its own")
        if steps < 0:
            raise ValueError(f"steps must be 0 or more, got {steps}")
        super().__init__(0.0 if callable(p) else p, inplace)
        self.schedule = self.in_steps = p if callable(p) else None
        self.steps = steps
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def probability(self) -> float:
        """The probability of the next training pass."""
        step = int(self.step)
        if self.in_steps is None:
            return self.p * min(1.0, step / self.steps) if self.steps else self.p
        p = float(self.in_steps(step))
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability must lie in 0 ... 1, got {p} at step {step}")
        return p

    def follow_run(self, steps_per_epoch: int | None, total_steps: int | None) -> None:
        """Count a schedule in steps of a run of that length, and let the run do the counting.

        Errors: ValueError if the schedule needs a number that is None.
        """
        if isinstance(self.schedule, Schedule):
            self.in_steps = self.schedule.in_steps(steps_per_epoch, total_steps)
        self.counts_passes = False

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        if not self.training:
            return input
        p = self.probability()
        if self.counts_passes and torch.is_grad_enabled():
            self.step.add_(1)
        return functional.dropout(input, p, True, self.inplace) if p else input

    def extra_repr(self) -> str:  # noqa: D102
        what = f"p={self.p}, steps={self.steps}" if self.schedule is None else f"p={self.schedule}"
        return f"{what}, inplace={self.inplace}"
