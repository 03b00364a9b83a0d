"""Convolutions of a frozen model: batch norm folded and the weight prepared once for each shape of input.

Winograd's transformed weights, or the panels of the direct product, are kept, and the step that is
left at a call is one operator: convolution, bias, residual and activation in one pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import _C, plans, settings
from ..autograd.norm import NAMES
from ..functional.gate import activate, pair, takes
from ..memory import is_channels_last
from .folding import fold
from .operations import NORMALIZATION

if TYPE_CHECKING:
    from .fusion import Chain

_prepare = torch.ops.pyconvopt.conv2d_prepare.default
_prepared = torch.ops.pyconvopt.conv2d_prepared.default

KEPT = 16
"""Shapes of input whose weights are kept."""
TAKE_RESIDUAL = ("winograd_f4x3", "direct")


@dataclass(frozen=True)
class Ready:
    """What a call with inputs of one shape needs; `weight` is None where it is not for this library.

    shape: of the result.
    """

    generation: int
    weight: Tensor | None = None
    packed: Tensor | None = None
    bias: Tensor | None = None
    hyper: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    takes_residual: bool = False


class FrozenConvolution:
    """The step of a chain that begins with a convolution and does not pool."""

    def __init__(self, chain: Chain, otherwise: Callable[..., Tensor]) -> None:
        self.otherwise = otherwise
        self.activation = chain.activation
        self.index = NAMES.index(chain.activation)
        self.bind, self.split = chain.first.bind, len(chain.first.extra)
        self.norm = chain.rest.get(NORMALIZATION)
        self.folded: tuple[Tensor, Tensor | None] | None = None
        self.ready: dict[torch.Size, Ready] = {}

    def run(self, x: Tensor, residual: Tensor | None, *extra: Any) -> Tensor:
        """The chain's result."""
        if not fits(x) or (residual is not None and not fits(residual)):
            return self.otherwise(x, residual, *extra)
        ready = self.ready.get(x.shape)
        if ready is None or ready.generation != settings.generation():
            ready = self.make_ready(x, residual is not None, extra)
        if ready.weight is None or (residual is not None and residual.shape != ready.shape):
            return self.otherwise(x, residual, *extra)
        if residual is None or ready.takes_residual:
            return _prepared(
                x, ready.packed, ready.weight, ready.bias, residual, *ready.hyper, self.index
            )
        y = _prepared(x, ready.packed, ready.weight, ready.bias, None, *ready.hyper, 0)
        return activate(y.add_(residual), self.activation, in_place=True)

    def make_ready(self, x: Tensor, residual: bool, extra: tuple[Any, ...]) -> Ready:
        """Fold and prepare for inputs of this shape."""
        generation = settings.generation()
        kept = [each for each in self.ready.values() if each.generation == generation]
        if len(kept) != len(self.ready) or len(kept) >= KEPT:
            self.ready.clear()
        ready = self.prepared_for(x, residual, extra, kept) or Ready(generation)
        self.ready[x.shape] = ready
        return ready

    def constants(self, extra: tuple[Any, ...]) -> tuple[Tensor, Tensor | None] | None:
        """Weight and bias, batch norm folded in; None where that normalises by the batch."""
        weight, bias, *_ = self.bind(*extra[: self.split])
        if self.norm is None:
            return weight, bias
        mean, var, gamma, beta, use_batch, _, eps = self.norm.bind(*extra[self.split :])
        if use_batch:
            return None
        if self.folded is None:
            self.folded = fold([weight, bias, mean, var, gamma, beta], eps)
        return self.folded

    @torch.no_grad()
    def prepared_for(
        self, x: Tensor, residual: bool, extra: tuple[Any, ...], kept: list[Ready]
    ) -> Ready | None:
        """None where torch's convolution, or the step as it is without freezing, is to run."""
        _, _, stride, padding, dilation, groups = self.bind(*extra[: self.split])
        if isinstance(padding, str):
            return None
        constants = self.constants(extra)
        if constants is None:
            return None
        weight, bias = constants
        if not takes(weight) or (bias is not None and not takes(bias)):
            return None
        geometry = (pair(stride), pair(padding), pair(dilation), groups)
        plan = plans.conv_plan(x.shape, weight.shape, *geometry)
        if plan is None:
            return None
        batch, channels, height, width = x.shape
        kernel, _ = _C.choose_conv(
            "forward", batch, channels, height, width, weight.shape[0],
            (weight.shape[2], weight.shape[3]), *geometry,
        )  # fmt: skip
        small = weight.shape[2] * weight.shape[3] <= 9
        if plan.forward == plans.TORCH and not (kernel == "direct" and groups == 1 and small):
            return None
        takes_residual = residual and kernel in TAKE_RESIDUAL
        weight = weight.detach()
        packed = _prepare(weight, *x.shape, *plan.hyper, takes_residual)
        for other in kept:  # of another size of batch
            if other.packed is not None and torch.equal(other.packed, packed):
                packed = other.packed
        bias = None if bias is None else bias.detach().contiguous()
        shape = (batch, weight.shape[0], *plan.out_size)
        return Ready(settings.generation(), weight, packed, bias, plan.hyper, shape, takes_residual)


def fits(x: Tensor) -> bool:
    """Whether the operator can be called on the tensor as it is, outside autograd."""
    differentiated = x.requires_grad and torch.is_grad_enabled()
    return (
        x.is_cpu
        and x.dim() == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and is_channels_last(x)
        and takes(x)
        and not differentiated
    )
