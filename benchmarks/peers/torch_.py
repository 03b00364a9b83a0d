"""torch: NCHW or channels_last, eager, compiled (Inductor) or frozen (TorchScript)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch._dynamo
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import images, models
from benchmarks.course import Course, workload
from benchmarks.peers import Workload, torch_layer
from benchmarks.problems import Problem

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


def set_up(
    model: models.Model, batch: int, threads: int, channels_last: bool
) -> tuple[nn.Module, Tensor, Tensor]:
    """The threads set, the module and images in their layout, labels."""
    torch.set_num_threads(threads)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    module = start(model.torch(nn)).to(memory_format=layout)
    x, y = example(model, batch)
    return module, x.contiguous(memory_format=layout), y


def make_train_step(
    model: models.Model, batch: int, threads: int, *, channels_last: bool, compiled: bool = False
) -> Workload:
    module, x, y = set_up(model, batch, threads, channels_last)
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), models.LEARNING_RATE, models.MOMENTUM)
    step = training_step(torch.compile(module) if compiled else module, optimizer, x, y)
    return Workload(step, partial(mean_loss, step), parameter_count(module), version())


def batch_norm_relu(
    x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    return F.relu(F.batch_norm(x, mean, variance, weight, bias, training=True), inplace=True)


def make_layer(problem: Problem, threads: int, *, pass_: str, channels_last: bool) -> Workload:
    functions = torch_layer.Functions(
        F.conv2d,
        batch_norm_relu,
        F.max_pool2d,
        F.dropout,
        partial(torch.optim.SGD, fused=True),
        partial(torch.optim.Adam, fused=True),
        version(),
    )
    return torch_layer.make(functions, problem, pass_, threads, channels_last)


def inference(module: Callable[[Tensor], Any], x: Tensor, y: Tensor, parameters: int) -> Workload:
    """A module in evaluation mode, without gradients."""

    @torch.no_grad()
    def run() -> Tensor:
        return module(x)

    def check() -> float:
        return models.cross_entropy(run().numpy(), y.numpy())

    return Workload(run, check, parameters, version())


def make_inference(
    model: models.Model,
    batch: int,
    threads: int,
    *,
    channels_last: bool,
    compiled: bool = False,
    frozen: bool = False,
    data: str | None = None,
) -> Workload:
    module, x, y = set_up(model, batch, threads, channels_last)
    module.eval()
    parameters = parameter_count(module)
    program: Callable[[Tensor], Any] = module
    if compiled:
        program = torch.compile(module)
    if frozen:
        traced = torch.jit.freeze(torch.jit.trace(module, x))
        program = torch.jit.optimize_for_inference(traced)
    return inference(program, x, y, parameters)


def make_time_to_accuracy(
    model: models.Model,
    batch: int,
    threads: int,
    *,
    data: str,
    channels_last: bool,
    seed: int,
    epochs: int,
    target: float,
    compiled: bool = False,
) -> Workload:
    """The loop as torch's tutorials write it: DataLoader, Adam, cross-entropy."""
    torch.set_num_threads(threads)

    def train(course: Course) -> None:
        torch.manual_seed(seed)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        (x, y), (test, labels) = (
            (torch.from_numpy(a).permute(0, 3, 1, 2).contiguous(memory_format=layout), b)
            for a, b in images.load(data)
        )
        module = model.torch(nn).to(memory_format=layout)
        program = torch.compile(module) if compiled else module
        optimizer = torch.optim.Adam(module.parameters())
        step_data = DataLoader(TensorDataset(x, torch.from_numpy(y)), batch, shuffle=True)

        def accuracy() -> float:
            module.eval()
            with torch.no_grad():
                said = torch.cat([module(part).argmax(1) for part in test.split(256)])
            module.train()
            return float((said == torch.from_numpy(labels)).float().mean())

        for _ in range(epochs):
            for inputs, targets in step_data:
                training_step(program, optimizer, inputs, targets)()
            if course.epoch_ends(accuracy):
                return

    return workload(train, target, version())
