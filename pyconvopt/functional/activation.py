"""Activations by torch's names.

Those with exponentials run on a kernel of this library for tensors of 16384 elements or more. Errors
beside float64: of a value at most 6e-7 of it (of GELU 1.5e-7 · (4 + x²) of it, of softplus
1.5e-7 · (4 + |beta · x|)) or 2e-36, where exp(−|x|) is no normal number; of a derivative at most
1e-6. Denormals count as zero.

In place ELU, SELU and SiLU are torch's: the copies that a kernel's result needs there cost more than it
saves. Torch's kernels for sigmoid, leaky ReLU and the hard ones are at the speed of memory: these names are
torch's own functions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.functional import hardsigmoid, hardswish, hardtanh, leaky_relu

from .. import explanation
from ..autograd.activation import FORWARD_BY_TORCH, ActivationCall, ActivationFunction
from ..plans import TORCH
from .gate import dense, needs_gradient, takes

__all__ = [
    "elu",
    "gelu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "mish",
    "selu",
    "sigmoid",
    "silu",
    "softplus",
    "tanh",
]

sigmoid = torch.sigmoid

# Below this a node of Python costs more than its kernel saves.
SMALLEST = 1 << 14

# Klambauer et al. 2017, to the digits of double precision.
SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def tanh(input: Tensor) -> Tensor:
    """``(exp(x) − exp(−x)) / (exp(x) + exp(−x))``, ten times as fast as torch's in the cache.

    >>> import torch, pyconvopt as pco
    >>> pco.functional.tanh(torch.tensor([0.0, 100.0]))
    tensor([0., 1.])
    """
    return _apply(ActivationCall("tanh", torch.tanh), input)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where positive, ``alpha · (exp(x) − 1)`` elsewhere.

    Source: Clevert et al. 2015 (arXiv:1511.07289).

    >>> import torch, pyconvopt as pco
    >>> pco.functional.elu(torch.tensor([-100.0, 2.0]), alpha=0.5)
    tensor([-0.5000,  2.0000])
    """
    if inplace or not _numbers(alpha):
        return F.elu(input, alpha, inplace)
    return _apply(ActivationCall("elu", lambda x: F.elu(x, alpha), alpha), input)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """``1.0507 · elu(x, 1.6733)``: keeps mean 0 and variance 1. Klambauer et al. 2017.

    >>> import torch, pyconvopt as pco
    >>> pco.functional.selu(torch.tensor([-100.0, 1.0]))
    tensor([-1.7581,  1.0507])
    """
    if inplace:
        return F.selu(input, inplace=True)
    return _apply(ActivationCall("elu", F.selu, SELU_ALPHA, SELU_SCALE), input)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """``x · Φ(x)``; with ``approximate="tanh"`` ``x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))``.

    Source: Hendrycks and Gimpel 2016 (arXiv:1606.08415).

    >>> import torch, pyconvopt as pco
    >>> pco.functional.gelu(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([-0.1587,  0.0000,  0.8413])
    """
    names = {"none": "gelu", "tanh": "gelu_tanh"}
    if approximate not in names:
        return F.gelu(input, approximate=approximate)  # torch's error
    call = ActivationCall(names[approximate], lambda x: F.gelu(x, approximate=approximate))
    return _apply(call, input)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """``x / (1 + exp(−x))``, also called swish. Elfwing et al. 2017 (arXiv:1702.03118).

    >>> import torch, pyconvopt as pco
    >>> pco.functional.silu(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([-0.2689,  0.0000,  0.7311])
    """
    if inplace:
        return F.silu(input, inplace=True)
    return _apply(ActivationCall("silu", F.silu), input)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """``x · tanh(log(1 + exp(x)))``, ten times as fast as torch's in the cache. Misra 2019.

    >>> import torch, pyconvopt as pco
    >>> pco.functional.mish(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([-0.3034,  0.0000,  0.8651])
    """
    if inplace:
        return input.copy_(_apply(ActivationCall("mish", F.mish), input.clone()))
    return _apply(ActivationCall("mish", F.mish), input)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """``log(1 + exp(beta · x)) / beta``; x where ``beta · x > threshold``.

    >>> import torch, pyconvopt as pco
    >>> pco.functional.softplus(torch.tensor([0.0, 30.0]))
    tensor([ 0.6931, 30.0000])
    """
    if not _numbers(beta, threshold):
        return F.softplus(input, beta, threshold)
    call = ActivationCall("softplus", lambda x: F.softplus(x, beta, threshold), beta, threshold)
    return _apply(call, input)


def _numbers(*arguments: Any) -> bool:
    """Whether these are finite numbers; any others are torch's to take or refuse."""
    return all(isinstance(each, int | float) and math.isfinite(each) for each in arguments)


def _apply(call: ActivationCall, input: Tensor) -> Tensor:
    x = dense(input) if input.numel() >= SMALLEST and takes(input) else None
    if x is None:
        y = call.by_torch(input)
        kernels, reason = (TORCH, TORCH), "fewer than 16384 elements, or not a dense float32 tensor"
    else:
        y = ActivationFunction.apply(x, call) if needs_gradient(x) else call.forward(x)
        forward = TORCH if call.name in FORWARD_BY_TORCH else "exponential"
        kernels, reason = (forward, "exponential"), "one exponential an element"
    if explanation.listening():
        for pass_, kernel in zip(("forward", "backward"), kernels, strict=True):
            explanation.note(call.name, pass_, kernel, reason, 20 * input.numel(), [input, y])
    return y
