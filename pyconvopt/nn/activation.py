"""Activation modules. Where torch's kernel is at the speed of memory the class here is torch's own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Hardsigmoid, Hardswish, Hardtanh, LeakyReLU, Sigmoid

from .. import functional
from .scripting import scriptable

__all__ = [
    "ELU",
    "GELU",
    "SELU",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "Mish",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "Tanh",
]


@scriptable
class ReLU(torch.nn.ReLU):
    """``torch.nn.ReLU``: ``max(x, 0)`` (`pyconvopt.functional.relu`).

    >>> import torch, pyconvopt as pco
    >>> pco.nn.ReLU()(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        return functional.relu(input, self.inplace)


@scriptable
class Tanh(torch.nn.Tanh):
    """``torch.nn.Tanh`` (`pyconvopt.functional.tanh`).

    >>> import torch, pyconvopt as pco
    >>> pco.nn.Tanh()(torch.tensor(100.0)).item()
    1.0
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        return functional.tanh(input)


@scriptable
class ELU(torch.nn.ELU):
    """``torch.nn.ELU`` (`pyconvopt.functional.elu`).

    >>> import torch, pyconvopt as pco
    >>> pco.nn.ELU()(torch.tensor(-100.0)).item()
    -1.0
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        return functional.elu(input, self.alpha, self.inplace)


@scriptable
class SELU(torch.nn.SELU):
    """``torch.nn.SELU`` (`pyconvopt.functional.selu`).

    >>> import torch, pyconvopt as pco
    >>> pco.nn.SELU()(torch.tensor(0.0)).item()
    0.0
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        return functional.selu(input, self.inplace)


@scriptable
class GELU(torch.nn.GELU):
    """``torch.nn.GELU`` (`pyconvopt.functional.gelu`).

    >>> import torch, pyconvopt as pco
    >>> pco.nn.GELU()(torch.tensor(0.0)).item()
    0.0
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        return functional.gelu(input, self.approximate)


@scriptable
class SiLU(torch.nn.SiLU):
    """``torch.nn.SiLU`` (`pyconvopt.functional.silu`).

    >>> import torch, pyconvopt as pco
    >>> pco.nn.SiLU()(torch.tensor(0.0)).item()
    0.0
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        return functional.silu(input, self.inplace)


@scriptable
class Mish(torch.nn.Mish):
    """``torch.nn.Mish`` (`pyconvopt.functional.mish`).

    >>> import torch, pyconvopt as pco
    >>> pco.nn.Mish()(torch.tensor(0.0)).item()
    0.0
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        return functional.mish(input, self.inplace)


@scriptable
class Softplus(torch.nn.Softplus):
    """``torch.nn.Softplus`` (`pyconvopt.functional.softplus`).

    >>> import torch, pyconvopt as pco
    >>> pco.nn.Softplus()(torch.tensor(30.0)).item()
    30.0
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        return functional.softplus(input, self.beta, self.threshold)
