"""A convolution with batch norm behind it: the statistics taken on the way, or the norm folded in.

In training the convolution's kernel takes the batch's statistics while its output is in registers.
In evaluation with fixed statistics batch norm is affine a channel, ``y = a·z + c`` with
``a = γ / √(var + eps)`` and ``c = β − a·mean``; so ``a·(w ⋆ x + b) + c = (a·w) ⋆ x + (a·b + c)``.
The folded weights are kept beside copies of what they were made from, and compared with it, value by
value, at each call: any change is seen, however it was made. (torch's version counters would not do:
they do not count changes through ``.data`` or by kernels outside torch.) Where the weights outweigh
the map, comparing costs more than it saves and batch norm runs on its own. Frozen, they are folded
once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import functional
from ..autograd.handover import offer
from ..autograd.recompute import UnstoredMap, stored
from ..functional.conv_norm_act import fold, folded_convolution, folds
from ..functional.gate import activate
from .operations import CONVOLUTION, NORMALIZATION, POOL

if TYPE_CHECKING:
    from .fusion import Chain


class Folded:
    """Folded weight and bias, and the tensors they were made from."""

    def __init__(self, frozen: bool) -> None:
        self.frozen = frozen
        # In one piece: other threads may read and replace it meanwhile.
        self.made: tuple[list[Tensor | None], float, tuple[Tensor, Tensor]] | None = None

    def get(self, tensors: list[Tensor | None], eps: float) -> tuple[Tensor, Tensor]:
        """The folded pair for (weight, bias, mean, var, γ, β)."""
        made = self.made
        if made is not None:
            copies, made_with, result = made
            if self.frozen or (eps == made_with and all(map(_equal, tensors, copies))):
                return result
        result = fold(tensors, eps)
        copies = [] if self.frozen else [None if t is None else t.detach().clone() for t in tensors]
        self.made = copies, eps, result
        return result


def _equal(tensor: Tensor | None, copy: Tensor | None) -> bool:
    """Whether the values are the same."""
    if tensor is None or copy is None:
        return tensor is copy
    return torch.equal(tensor, copy)


def step(chain: Chain, frozen: bool) -> Callable[..., Tensor | UnstoredMap]:
    """Convolution, batch norm, residual, activation, 2×2 max-pool, dropout."""
    conv, norm = chain.first, chain.rest[NORMALIZATION]
    assert conv.kind == CONVOLUTION
    activation, rate = chain.activation, chain.rate
    split = len(conv.extra)
    check = getattr(norm.module, "_check_input_dim", None)
    normalize = chain.normalizer()
    folded = Folded(frozen)
    pool = POOL in chain.rest

    def normalized_convolution(
        x: Tensor | UnstoredMap, residual: Tensor | None, *extra: Any
    ) -> Tensor | UnstoredMap:
        weight, bias, *geometry = conv.bind(*extra[:split])
        mean, var, gamma, beta, use_batch, momentum, eps = norm.bind(*extra[split:])
        moments = None
        if use_batch:
            y, moments = functional.conv2d_moments(x, weight, bias, *geometry)
            offer(y)
        else:
            x = stored(x)
            others = bias, mean, var, gamma, beta
            if (frozen and x.dim() == 4) or folds(x, weight, geometry[0], (*others, residual)):
                constants = folded.get([weight, *others], eps)
                if chain.writes_residual and residual is not None:
                    y = folded_convolution(x, None, *constants, *geometry)
                    return activate(residual.add_(y), activation, in_place=True)
                return folded_convolution(
                    x, residual, *constants, *geometry,
                    activation=activation, pool=pool, dropout=rate(),
                )  # fmt: skip
            y = functional.conv2d(x, weight, bias, *geometry)
        if check is not None:
            check(y)
        vectors = mean, var, gamma, beta
        return normalize(y, residual, *vectors, use_batch, momentum, eps, moments=moments)

    return normalized_convolution
