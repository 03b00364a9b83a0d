"""Each kernel of the table as two calls on CUDA tensors: this library's operator, and torch's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

import pyconvopt as pco
from benchmarks.gpu.problems import Kernel, Shape

Call = Callable[[], object]
HYPER = (1, 1, 1, 1, 1, 1)  # stride, padding, dilation


def _norm(kernel: Kernel, x: torch.Tensor, ops) -> tuple[Call, Call]:
    c = x.shape[1]
    weight, bias, mean = (torch.randn(c, device="cuda") for _ in range(3))
    var = torch.rand(c, device="cuda") + 0.5
    training = "evaluation" not in kernel.name
    residual = torch.randn_like(x) if "residual" in kernel.name else None
    moments = ()
    if "moments" in kernel.name:
        weights = torch.randn(c, c, 3, 3, device="cuda")
        x, *moments = ops.conv2d_moments(x, weights, None, *HYPER, 1)
    options = (training, 0.1, 1e-5, True, False, 0.0, 0, 0, *moments)
    forward = (x, weight, bias, residual, mean, var, *options)

    def theirs() -> torch.Tensor:
        y = F.batch_norm(x, mean, var, weight, bias, training)
        return F.relu(y if residual is None else y + residual, inplace=True)

    if "backward" not in kernel.name:
        return lambda: ops.batch_norm_forward(*forward), theirs
    _, _, saved_mean, saved_invstd = ops.batch_norm_forward(*forward)
    g = torch.randn_like(x)
    own = (
        g,
        x,
        None,
        None,
        weight,
        saved_mean,
        saved_invstd,
        True,
        True,
        False,
        0.0,
        True,
        False,
        bias,
    )
    inputs = [t.requires_grad_() for t in (x, weight, bias)]
    y = F.relu(F.batch_norm(*inputs[:1], mean, var, *inputs[1:], True))
    return (
        lambda: ops.batch_norm_backward(*own),
        lambda: torch.autograd.grad(y, inputs, g, retain_graph=True),
    )


def _pool(kernel: Kernel, x: torch.Tensor, ops) -> tuple[Call, Call]:
    if "forward" in kernel.name:
        return lambda: ops.max_pool2x2(x), lambda: F.max_pool2d(x, 2)
    y, argmax = ops.max_pool2x2(x)
    g, wanted = torch.randn_like(y), F.max_pool2d(x.requires_grad_(), 2)
    return (
        lambda: ops.max_pool2x2_backward(g, argmax, *x.shape[2:], False),
        lambda: torch.autograd.grad(wanted, x, g, retain_graph=True),
    )


def _step(kernel: Kernel, x: torch.Tensor, ops) -> tuple[Call, Call]:
    def optimizer(library):
        parameter = torch.nn.Parameter(x.clone())
        parameter.grad = torch.randn_like(x)
        if kernel.name == "Adam":
            return library.Adam([parameter], lr=1e-3)
        return library.SGD([parameter], lr=1e-3, momentum=0.9)

    return optimizer(pco.optimizers).step, optimizer(torch.optim).step


def _convolution(kernel: Kernel, x: torch.Tensor, ops) -> tuple[Call, Call]:
    c = x.shape[1]
    groups = c if kernel.name.startswith("depthwise") else 1
    weight = torch.randn(c, c // groups, 3, 3, device="cuda")
    g = torch.randn_like(x)
    pair = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
    if "moments" in kernel.name:
        return (
            lambda: ops.conv2d_moments(x, weight, None, *HYPER, groups),
            lambda: torch.var_mean(F.conv2d(x, weight, None, **pair, groups=groups), (0, 2, 3)),
        )
    if "forward" in kernel.name:
        return (
            lambda: ops.conv2d(x, weight, None, *HYPER, groups, False),
            lambda: F.conv2d(x, weight, None, **pair, groups=groups),
        )
    of_data = "data" in kernel.name

    def theirs():
        mask = (of_data, not of_data, False)
        return torch.ops.aten.convolution_backward(
            g, x, weight, None, *pair.values(), False, (0, 0), groups, mask
        )

    if of_data:
        return lambda: ops.conv2d_data_gradient(g, weight, *x.shape[2:], *HYPER, groups), theirs
    return lambda: ops.conv2d_weight_gradient(x, g, weight, *HYPER, groups), theirs


def calls(kernel: Kernel, shape: Shape, memory_format: torch.memory_format) -> tuple[Call, Call]:
    """(ours, torch's) on new random tensors."""
    ops = torch.ops.pyconvopt
    x = torch.randn(shape.batch, shape.channels, shape.height, shape.width, device="cuda")
    x = x.contiguous(memory_format=memory_format)
    if kernel.name.startswith("batch norm"):
        return _norm(kernel, x, ops)
    if kernel.name == "dropout":
        return lambda: ops.dropout(x, 0.5, 1, 0), lambda: F.dropout(x, 0.5)
    if kernel.name.startswith("max-pool"):
        return _pool(kernel, x, ops)
    if kernel.name.startswith(("depthwise", "dense")):
        return _convolution(kernel, x, ops)
    return _step(kernel, x, ops)


@contextlib.contextmanager
def arithmetic(kernel: Kernel) -> Iterator[None]:
    """Both libraries compute in the kernel's arithmetic; cuDNN has bfloat16 for bfloat16 maps alone,
    so there torch's side runs in tf32."""
    tf32 = kernel.arithmetic != "float32"
    with pco.settings(cuda_math=kernel.arithmetic), torch.backends.cudnn.flags(allow_tf32=tf32):
        yield
