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
from ..functional.gate import activate, needs_gradient, pair, suits
from ..functional.unstored import UnstoredMap, stored
from .operations import CONVOLUTION, NORMALIZATION, POOL

if TYPE_CHECKING:
    from .fusion import Chain

WORTHWHILE = 4
"""Outputs for each weight from which on folding pays."""


class Folded:
    """Folded weight and bias, and the tensors they were made from."""

    def __init__(self, frozen: bool) -> None:
        self.frozen = frozen
        self.copies: list[Tensor | None] | None = None
        self.eps = 0.0
        self.result: tuple[Tensor, Tensor] | None = None

    def get(self, tensors: list[Tensor | None], eps: float) -> tuple[Tensor, Tensor]:
        """The folded pair for (weight, bias, mean, var, γ, β)."""
        if self.result is None or not self._same(tensors, eps):
            self.result = fold(tensors, eps)
            self.eps = eps
            if not self.frozen:
                self.copies = [None if t is None else t.detach().clone() for t in tensors]
        return self.result

    def _same(self, tensors: list[Tensor | None], eps: float) -> bool:
        if self.frozen:
            return True
        assert self.copies is not None
        return eps == self.eps and all(
            t is c or (t is not None and c is not None and torch.equal(t, c))
            for t, c in zip(tensors, self.copies, strict=True)
        )


@torch.no_grad()
def fold(tensors: list[Tensor | None], eps: float) -> tuple[Tensor, Tensor]:
    """(weight, bias) of a convolution that normalises its own result.

    >>> import torch
    >>> ones = torch.ones(2)
    >>> w, b = fold([torch.ones(2, 1, 1, 1), None, ones, 4 * ones, 6 * ones, ones], eps=0.0)
    >>> w.flatten().tolist(), b.tolist()
    ([3.0, 3.0], [-2.0, -2.0])
    """
    weight, bias, mean, var, gamma, beta = tensors
    assert weight is not None and mean is not None and var is not None
    scale = torch.rsqrt(var + eps)
    if gamma is not None:
        scale = scale * gamma
    shift = (-mean if bias is None else bias - mean) * scale
    return weight * scale.view(-1, 1, 1, 1), shift if beta is None else shift + beta


def step(chain: Chain, frozen: bool) -> Callable[..., Tensor | UnstoredMap]:
    """Convolution, batch norm, residual, activation, 2×2 max-pool, dropout."""
    conv, norm = chain.first, chain.rest[NORMALIZATION]
    assert conv.kind == CONVOLUTION
    activation, rate = chain.activation, chain.rate
    split = len(conv.extra)
    check = getattr(norm.module, "_check_input_dim", None)
    normalize = chain.normalizer()
    folded = Folded(frozen)
    convolve = functional.conv2d_max_pool if POOL in chain.rest else functional.conv2d

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
            tensors = [weight, bias, mean, var, gamma, beta]
            if x.dim() == 4 and (frozen or folds(x, weight, geometry, (*tensors, residual))):
                return folded_convolution(x, residual, *folded.get(tensors, eps), *geometry)
            y = functional.conv2d(x, weight, bias, *geometry)
        if check is not None:
            check(y)
        vectors = mean, var, gamma, beta
        return normalize(y, residual, *vectors, use_batch, momentum, eps, moments=moments)

    def folded_convolution(x: Tensor, residual: Tensor | None, *arguments: Any) -> Tensor:
        if residual is None and activation in (None, "relu"):
            y = convolve(x, *arguments, activation=activation)
        else:
            y = functional.conv2d(x, *arguments)
            y = y if residual is None else y + residual
            y = activate(y, activation, in_place=True)
        return functional.dropout(y, rate()) if rate() else y

    return normalized_convolution


def folds(x: Tensor, weight: Tensor, geometry: list[Any], tensors: tuple[Any, ...]) -> bool:
    """Whether folding is right (no gradient, plain float32) and pays for the size of the map."""
    sh, sw = pair(geometry[0])
    outputs_a_filter = x.shape[0] * x.shape[2] * x.shape[3] // (sh * sw)
    return (
        outputs_a_filter >= WORTHWHILE * weight[0].numel()
        and suits(x)
        and x.dtype is torch.float32
        and not needs_gradient(x, *tensors)
    )
