"""One layer as a torch program: the forward pass, or gradients by autograd.

torch and pyconvopt are the same program with other functions (`Functions`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks import tensors
from benchmarks.peers import Workload
from benchmarks.problems import Problem

DROPPED = 0.5  # probability

Run = Callable[[], Sequence[Tensor]]


class Functions(NamedTuple):
    """What a library offers. batch_norm_relu: (x, mean, var, weight, bias) in training.

    sgd, adam: (parameters, lr, …) as torch.optim's. version: for the report.
    """

    conv2d: Callable[..., Tensor]
    batch_norm_relu: Callable[..., Tensor]
    max_pool2d: Callable[..., Tensor]
    dropout: Callable[..., Tensor]
    sgd: Callable[..., torch.optim.Optimizer]
    adam: Callable[..., torch.optim.Optimizer]
    version: str


def make(
    functions: Functions, problem: Problem, pass_: str, threads: int, channels_last: bool
) -> Workload:
    torch.set_num_threads(threads)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    run = PROGRAMS[problem.kind](functions, problem, pass_, layout)

    def check() -> list[float]:
        return tensors.samples(*(y.detach().numpy() for y in run()))

    return Workload(run, check, 0, functions.version)


def tensor(index: int, shape: tuple[int, ...], layout: torch.memory_format) -> Tensor:
    return torch.from_numpy(tensors.draw(index, shape)).contiguous(memory_format=layout)


def convolution(
    functions: Functions, problem: Problem, pass_: str, layout: torch.memory_format
) -> Run:
    """A gradient alone: only the tensor that it belongs to asks for one."""
    x = tensor(tensors.INPUT, problem.input_shape, layout)
    weight = tensor(tensors.WEIGHT, problem.weight_shape, layout)
    padding = problem.padding_height, problem.padding_width

    def forward() -> Tensor:
        return functions.conv2d(x, weight, None, problem.stride, padding, 1, problem.groups)

    if pass_ == "forward":
        return torch.no_grad()(lambda: (forward(),))
    wanted = x if pass_ == "data_gradient" else weight
    wanted.requires_grad_()
    y = forward()
    dy = tensor(tensors.GRADIENT, problem.output_shape, layout)
    return lambda: torch.autograd.grad(y, wanted, dy, retain_graph=True)


def batch_norm_relu(
    functions: Functions, problem: Problem, pass_: str, layout: torch.memory_format
) -> Run:
    channels = problem.channels
    weight, bias = (
        torch.ones(channels, requires_grad=True),
        torch.zeros(channels, requires_grad=True),
    )
    mean, variance = torch.zeros(channels), torch.ones(channels)
    return step(
        lambda x: functions.batch_norm_relu(x, mean, variance, weight, bias),
        (weight, bias),
        problem,
        layout,
    )


def max_pool(
    functions: Functions, problem: Problem, pass_: str, layout: torch.memory_format
) -> Run:
    windows = (problem.kernel_height, problem.kernel_width), problem.stride
    padding = problem.padding_height, problem.padding_width
    return step(lambda x: functions.max_pool2d(x, *windows, padding), (), problem, layout)


def dropout(functions: Functions, problem: Problem, pass_: str, layout: torch.memory_format) -> Run:
    return step(lambda x: functions.dropout(x, DROPPED, True), (), problem, layout)


def step(
    forward: Callable[[Tensor], Tensor],
    parameters: tuple[Tensor, ...],
    problem: Problem,
    layout: torch.memory_format,
) -> Run:
    """Forward and backward one after the other, as in training: gradients of input and parameters."""
    x = tensor(tensors.INPUT, problem.input_shape, layout).requires_grad_()
    dy = tensor(tensors.GRADIENT, problem.output_shape, layout)
    return lambda: torch.autograd.grad(forward(x), (x, *parameters), dy)


def update(functions: Functions, problem: Problem, pass_: str, layout: torch.memory_format) -> Run:
    """An optimiser's step, always with the same gradients."""
    sizes = [size for count, size in problem.parameters for _ in range(count)]
    parameters = [torch.from_numpy(tensors.draw(3 + i, (n,))) for i, n in enumerate(sizes)]
    for i, p in enumerate(parameters):
        p.requires_grad_()
        p.grad = torch.from_numpy(tensors.draw(3 + len(sizes) + i, p.shape))
    if problem.kind == "sgd":
        optimizer = functions.sgd(parameters, lr=0.01, momentum=0.9, weight_decay=5e-4)
    else:
        optimizer = functions.adam(parameters, lr=0.001)

    def run() -> Sequence[Tensor]:
        optimizer.step()
        return parameters[:1]

    return run


def copy(functions: Functions, problem: Problem, pass_: str, layout: torch.memory_format) -> Run:
    a = torch.from_numpy(tensors.draw(tensors.INPUT, (problem.height, problem.width)))
    b = torch.empty_like(a)
    return lambda: (b.copy_(a),)


PROGRAMS = {
    "convolution": convolution,
    "batch_norm_relu": batch_norm_relu,
    "max_pool": max_pool,
    "dropout": dropout,
    "sgd": update,
    "adam": update,
    "copy": copy,
}
