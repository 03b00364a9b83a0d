"""torch: NCHW or channels_last, eager or compiled (Inductor)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch._dynamo
from torch import Tensor, nn

from benchmarks import models
from benchmarks.peers import Workload

CHECK_STEPS = 20


def start(module: nn.Module) -> nn.Module:
    """Give the module the weights that every peer starts from."""
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    with torch.no_grad():
        for name, array in models.torch_weights(shapes).items():
            module.get_parameter(name).copy_(torch.from_numpy(array.copy()))
    return module


def example(model: models.Model, batch: int) -> tuple[Tensor, Tensor]:
    """Images as NCHW (a view: the bytes lie channels last) and labels."""
    x, y = models.example_batch(model, batch)
    return torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(y)


def training_step(
    module: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor
) -> Callable[[], Tensor]:
    """The step as a torch user writes it."""

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(module(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def mean_loss(step: Callable[[], Any]) -> float:
    return sum(float(step()) for _ in range(CHECK_STEPS)) / CHECK_STEPS


def parameter_count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def version() -> str:
    return f"torch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()})"


def make_train_step(
    model: models.Model, batch: int, threads: int, *, channels_last: bool, compiled: bool = False
) -> Workload:
    torch.set_num_threads(threads)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    module = start(model.torch(nn)).to(memory_format=layout).train()
    x, y = example(model, batch)
    x = x.contiguous(memory_format=layout)
    optimizer = torch.optim.SGD(module.parameters(), models.LEARNING_RATE, models.MOMENTUM)
    step = training_step(torch.compile(module) if compiled else module, optimizer, x, y)
    return Workload(step, partial(mean_loss, step), parameter_count(module), version())
