"""Activation, dropout and the dense layer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .. import draws, explanation
from ..plans import TORCH
from .gate import Activation, activate
from .noise import counted, dropped


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """``max(x, 0)``; NaN stays NaN. torch's kernel: the pass is bound by memory, and that one is at it.

    Fused into `conv2d` and `batch_norm` by ``activation="relu"`` it needs no pass of its own.

    >>> import torch, pyconvopt as pco
    >>> pco.functional.relu(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    return F.relu(input, inplace)


def linear(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: Activation = None
) -> Tensor:
    """``activation(x Wᵀ + b)``: (…, in) and (out, in) to (…, out), on torch's product.

    >>> import torch, pyconvopt as pco
    >>> pco.functional.linear(torch.ones(1, 2), torch.ones(3, 2), activation="relu")
    tensor([[2., 2., 2.]])
    """
    return activate(F.linear(input, weight, bias), activation)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero each element with probability `p` and scale the others by 1/(1 − p).

    The mask is a function of a key and of the element's number (Philox4x32-10, Salmon et al. 2011):
    the same for any number of threads, any floating type, and made again in backward instead of
    being stored. The key is one number of torch's generator or, in training, a hash of seed, step
    and layer (`draws`). A tensor in channels_last counts its elements as they lie in memory, any
    other in its logical order. Arguments and errors as ``torch.nn.functional.dropout``.

    >>> import torch, pyconvopt as pco
    >>> y = pco.functional.dropout(torch.ones(1000), 0.25)
    >>> sorted(set(y.tolist())) == [0.0, torch.tensor(1 / 0.75).item()]
    True
    """
    return _dropout(input, p, training, inplace, channels=False)


def dropout2d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Zero whole channels of (N, C, H, W) with probability `p`, scale the others by 1/(1 − p).

    >>> import torch, pyconvopt as pco
    >>> y = pco.functional.dropout2d(torch.ones(1, 64, 2, 2))
    >>> bool((y == y[:, :, :1, :1]).all())
    True
    """
    return _dropout(input, p, training, inplace, channels=True)


def _dropout(input: Tensor, p: float, training: bool, inplace: bool, channels: bool) -> Tensor:
    name = "dropout2d" if channels else "dropout"
    ours = training is True and 0 < p < 1 and input.numel() and (input.dim() == 4 or not channels)
    if not ours or not counted(input):
        y = (F.dropout2d if channels else F.dropout)(input, p, training, inplace)
        kernel, reason = TORCH, "not training, or a tensor that no kernel here takes"
    else:
        y, by_kernel = dropped(input, p, draws.draw(name), channels)
        y = input.copy_(y) if inplace else y
        kernel, reason = TORCH, "mask from a counter, for a tensor that no kernel here takes"
        if by_kernel:
            kernel, reason = "philox_dropout", "mask from a counter, in registers, not stored"
    if explanation.listening():
        explanation.note(name, "forward", kernel, reason, input.numel(), [input, y])
        explanation.note(name, "backward", kernel, reason, input.numel(), [input, y])
    return y
