"""CUDA tensors: whether the plug-in's kernels may take them, and the operators it has none for.

The plug-in ``libpyconvopt_cuda.so`` is loaded at the first CUDA tensor that a kernel here would
take. Where it is missing, or the driver or GPU is too old for it, that is an error;
``settings(cuda_fallback=True)`` lets torch's kernels take over instead.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _C, settings

_ready: set[int] = set()


def ready(x: Tensor) -> bool:
    """Whether the plug-in runs on the device of the CUDA tensor `x`; False where torch is to take over.

    Raises:
        RuntimeError: it does not, and ``settings(cuda_fallback=True)`` was not set.
    """
    device = x.get_device()
    if device in _ready:
        return True
    problem = _C.cuda_problem(device)
    if not problem:
        _ready.add(device)
        return True
    if settings.cuda_fallback():
        return False
    raise RuntimeError(problem)


def capturing() -> bool:
    """Whether a CUDA graph is being captured: a number drawn now would be the same at every replay."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


# Passes bound by memory that torch's own kernels serve as well.


def _channel_sum(input: Tensor) -> Tensor:
    return input.sum([d for d in range(input.dim()) if d != 1])


def _relu_backward(
    output_gradient: Tensor, output: Tensor, channel_sum: bool
) -> tuple[Tensor, Tensor]:
    gradient = torch.ops.aten.threshold_backward(output_gradient, output, 0)
    return gradient, _channel_sum(gradient) if channel_sum else output.new_empty(0)


torch.library.impl("pyconvopt::relu", "CUDA", torch.relu)
torch.library.impl("pyconvopt::relu_backward", "CUDA", _relu_backward)
torch.library.impl("pyconvopt::channel_sum", "CUDA", _channel_sum)
