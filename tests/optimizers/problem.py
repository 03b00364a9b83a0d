"""A noisy quadratic problem that every optimiser is tried on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

SHAPES = [(4, 3, 3, 3), (6, 5), (7,)]


def start(channels_last: bool = False, dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    """A filter bank, a matrix and a vector."""
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]
    if channels_last:
        values[0] = values[0].contiguous(memory_format=torch.channels_last)
    return [nn.Parameter(value.to(dtype)) for value in values]


def gradient(step: int, index: int, w: Tensor) -> Tensor:
    """½ w and noise that depends on the step and the parameter alone."""
    generator = torch.Generator().manual_seed(1000 * step + index)
    noise = torch.randn(w.shape, generator=generator, dtype=torch.float64)
    return torch.empty_like(w).copy_(0.5 * w + noise.to(w.dtype))


def advance(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], steps: range) -> None:
    """Steps with these gradients; a closure is given, as some optimisers want one."""
    for step in steps:

        def closure(step=step):
            optimizer.zero_grad()
            for index, w in enumerate(weights):
                w.grad = gradient(step, index, w.detach())
            return sum(w.detach().square().sum() for w in weights)

        optimizer.step(closure)


def needs_library(name: str) -> None:
    """Skip where the optimiser is the optional library's and that is missing."""
    from pyconvopt.optimizers.table import OPTIMIZERS, FromLibrary

    if isinstance(OPTIMIZERS[name][0], FromLibrary):
        pytest.importorskip("pytorch_optimizer", reason="pytorch-optimizer is optional")
