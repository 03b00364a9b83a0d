"""What layers draw, where its elements can be counted; else torch draws it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import cuda, draws
from ..autograd.dropout import DropoutFunction
from ..draws import Draw
from .gate import dense, plain, takes


def counted(x: Tensor) -> bool:
    """Whether what is drawn for `x` is drawn here.

    In captured CUDA graphs torch draws anew at every replay, in its transforms as they are told.
    """
    if not plain(x) or not x.is_floating_point():
        return False
    return x.is_cpu or (x.is_cuda and takes(x) and not cuda.capturing())


def kept(x: Tensor, shape: Sequence[int], p: float, kind: str) -> Tensor:
    """1 with probability 1 − p, else 0, in that shape (samples first) and the type of `x`."""
    if not counted(x):
        return x.new_empty(*shape).bernoulli_(1 - p)
    return draws.kept(shape, p, draws.draw(kind), x.device).to(x.dtype)


def kept_like(x: Tensor, p: float, kind: str) -> Tensor:
    """The same for each element of `x`."""
    shape, axes = draws.ordered(x)
    return kept(x, shape, p, kind).permute(axes)


def normal_like(x: Tensor, kind: str) -> Tensor:
    """Standard normal numbers for each element of `x`."""
    if not counted(x):
        return torch.randn_like(x)
    shape, axes = draws.ordered(x)
    return draws.normal(shape, draws.draw(kind)).to(x.device, x.dtype).permute(axes)


def dropped(x: Tensor, p: float, draw: Draw, channels: bool = False) -> tuple[Tensor, bool]:
    """Dropout of elements or whole channels of a `counted` tensor, and whether a kernel did it."""
    shape, axes = ((*x.shape[:2], 1, 1), (0, 1, 2, 3)) if channels else draws.ordered(x)
    fits = takes(x) and not draw.start(shape)
    y = dense(x, channels) if fits else None
    if y is not None:
        return DropoutFunction.apply(y, float(p), draw.key, channels), True
    mask = draws.kept(shape, p, draw, x.device).to(x.dtype)
    return x * (mask * (1 / (1 - p) if p < 1 else 0.0)).permute(axes), False
