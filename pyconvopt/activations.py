"""Activation functions by name, each `activation(x) -> y` on a tensor.

Images are N, C, H, W inside the library, so an activation that looks across channels (softmax)
takes axis 1 of a four-dimensional tensor and the last axis of any other: Keras' last axis.
Definitions and default slopes are Keras'. An activation with other settings, or one that learns,
is an object: torch's modules (`nn.LeakyReLU(0.01)`, `nn.PReLU()`) stand wherever a name does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as torch_functional
from torch import Tensor, nn

from pyconvopt import functional, registry

Activation = Callable[[Tensor], Tensor]


def channel_axis(x: Tensor) -> int:
    """Where the channels lie: axis 1 of images, the last axis of anything else."""
    return 1 if x.dim() == 4 else -1


def linear(x: Tensor) -> Tensor:
    """x itself."""
    return x


def relu(x: Tensor) -> Tensor:
    """max(x, 0). A layer with this activation computes it inside its own kernel.

    >>> relu(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    return functional.relu(x)


def relu6(x: Tensor) -> Tensor:
    """min(max(x, 0), 6)."""
    return torch_functional.relu6(x)


def leaky_relu(x: Tensor) -> Tensor:
    """x where positive, 0.2·x elsewhere (Keras' slope; torch's is 0.01)."""
    return torch_functional.leaky_relu(x, negative_slope=0.2)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return torch.sigmoid(x)


def tanh(x: Tensor) -> Tensor:
    """(exp(x) - exp(-x)) / (exp(x) + exp(-x))."""
    return functional.tanh(x)


def softmax(x: Tensor) -> Tensor:
    """exp(x) / Σ exp(x) over the channels.

    >>> softmax(torch.zeros(1, 4))
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    return torch.softmax(x, dim=channel_axis(x))


def log_softmax(x: Tensor) -> Tensor:
    """x - log Σ exp(x) over the channels."""
    return torch.log_softmax(x, dim=channel_axis(x))


def gelu(x: Tensor) -> Tensor:
    """x·Φ(x), Φ the normal distribution function, exact. Hendrycks and Gimpel 2016."""
    return functional.gelu(x)


def exponential(x: Tensor) -> Tensor:
    """exp(x)."""
    return torch.exp(x)


def squareplus(x: Tensor) -> Tensor:
    """(x + √(x² + 4)) / 2: softplus without exponentials. Barron 2021.

    >>> squareplus(torch.tensor([0.0]))
    tensor([1.])
    """
    return 0.5 * (x + torch.sqrt(x.square() + 4))


def sparse_plus(x: Tensor) -> Tensor:
    """0 below -1, (x + 1)² / 4 up to 1, x beyond: a softplus with true zeros.

    >>> sparse_plus(torch.tensor([-2.0, 0.0, 3.0]))
    tensor([0.0000, 0.2500, 3.0000])
    """
    return torch.where(x < 1, 0.25 * (x + 1).clamp(min=0).square(), x)


TABLE: dict[str, Activation] = {
    "linear": linear,
    "relu": relu,
    "relu6": relu6,
    "leaky_relu": leaky_relu,
    "sigmoid": sigmoid,
    "hard_sigmoid": torch_functional.hardsigmoid,
    "tanh": tanh,
    "softmax": softmax,
    "log_softmax": log_softmax,
    "softplus": functional.softplus,
    "softsign": torch_functional.softsign,
    "elu": functional.elu,
    "selu": functional.selu,
    "gelu": gelu,
    "silu": functional.silu,
    "swish": functional.silu,
    "hard_swish": torch_functional.hardswish,
    "hard_silu": torch_functional.hardswish,
    "mish": functional.mish,
    "celu": torch_functional.celu,
    "hard_tanh": torch_functional.hardtanh,
    "log_sigmoid": torch_functional.logsigmoid,
    "soft_shrink": torch_functional.softshrink,
    "hard_shrink": torch_functional.hardshrink,
    "tanh_shrink": torch_functional.tanhshrink,
    "squareplus": squareplus,
    "sparse_plus": sparse_plus,
    "exponential": exponential,
}


# Modules that a file may name, with their settings: torch's, and this library's of the same names.
MODULES = (
    "CELU", "ELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU",
    "LogSigmoid", "LogSoftmax", "Mish", "PReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid",
    "Softmax", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink", "Threshold",
)  # fmt: skip


def modules() -> dict[str, type[nn.Module]]:
    """The modules of `MODULES` by the name a file has for them: 'torch.nn.PReLU'."""
    from pyconvopt import nn as ours

    torchs = {f"torch.nn.{name}": getattr(nn, name) for name in MODULES}
    own = {f"pyconvopt.nn.{name}": getattr(ours, name, None) for name in MODULES}
    known = set(torchs.values())
    return torchs | {name: each for name, each in own.items() if each and each not in known}


def get(spec: str | Activation | Mapping[str, Any] | None) -> Activation:
    """The activation of that name, of what `describe` returned, the callable itself, or `linear`.

    >>> get('tanh') is tanh, get(None) is linear
    (True, True)
    >>> get('rellu')  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: unknown activation 'rellu': did you mean 'relu'? Known: ...
    """
    if spec is None:
        return linear
    if isinstance(spec, str):
        return registry.find("activation", TABLE, spec)
    if isinstance(spec, Mapping):
        return registry.make("activation", modules(), spec)
    if isinstance(spec, type):
        raise TypeError(f"got the class {spec.__name__} for activation: write {spec.__name__}()")
    if callable(spec):
        return spec
    raise TypeError(f"activation must be a name or a function, got {spec!r}")


def describe(activation: Any) -> str | dict[str, Any]:
    """The name of an activation for a saved model, a module's with its settings.

    Errors: ValueError for a function or module that no table holds.

    >>> describe(relu), describe(nn.LeakyReLU(0.1))['name']
    ('relu', 'torch.nn.LeakyReLU')
    """
    for name, entry in TABLE.items():
        if entry is activation:
            return name
    for name, kind in modules().items():
        if type(activation) is kind:
            arguments = inspect.signature(kind).parameters
            config = {
                key: getattr(activation, key) for key in arguments if hasattr(activation, key)
            }
            return {"name": name, "config": config}
    raise ValueError(
        f"activation {activation!r} cannot be saved: a file holds only activations known by "
        f"name ({', '.join(sorted(TABLE))})"
    )
