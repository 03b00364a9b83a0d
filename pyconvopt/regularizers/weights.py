"""Penalties on the size of single weights and of whole filters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as torch_functional
from torch import Tensor
from typing_extensions import override

from pyconvopt.attaching import require_floating
from pyconvopt.regularizers.base import Penalty, Strength, rows


@dataclass(frozen=True)
class L1(Penalty):
    """l · Σ|w|: drives weights to small values, many near zero. Default l = 0.01.

    >>> float(L1(0.1)(torch.tensor([3.0, -4.0])))  # 0.1 · (3 + 4)
    0.699999988079071
    """

    l: Strength = 0.01  # noqa: E741 - the article's symbol

    @override
    def value(self, weight: Tensor) -> Tensor:
        return self.l * weight.abs().sum()


@dataclass(frozen=True)
class L2(Penalty):
    """(l / 2) · Σw²: the article's weight decay; Keras' `l2(l / 2)`. Default l = 0.01.

    >>> float(L2(0.1)(torch.tensor([3.0, -4.0])))  # 0.05 · (9 + 16)
    1.25

    The strength of every penalty may be a function of the step, such as a schedule (in a `Trainer`
    also one `per_epoch()` or `over_run()`):

    >>> float(L2(lambda step: 0.1 * step)(torch.tensor([3.0, -4.0]), step=2))
    2.5
    """

    l: Strength = 0.01  # noqa: E741 - the article's symbol

    @override
    def value(self, weight: Tensor) -> Tensor:
        return 0.5 * self.l * weight.square().sum()


@dataclass(frozen=True)
class L1L2(Penalty):
    """l1 · Σ|w| + (l2 / 2) · Σw². Defaults 0.01 each.

    >>> float(L1L2(l1=0.5, l2=0.1)(torch.tensor([3.0, -4.0])))  # 3.5 + 1.25
    4.75
    """

    l1: Strength = 0.01
    l2: Strength = 0.01

    @override
    def value(self, weight: Tensor) -> Tensor:
        return self.l1 * weight.abs().sum() + 0.5 * self.l2 * weight.square().sum()


@dataclass(frozen=True)
class GroupLasso(Penalty):
    """l · Σ_k ‖w_k‖, w_k all weights of filter k: whole filters go towards zero. Default 0.01.

    Kernels (out, ...) of dense layers and convolutions, of transposed ones on their layer the same
    filters, which then lie on the second axis; at w_k = 0 the gradient is taken as 0.

    Errors: ValueError for a vector.

    >>> float(GroupLasso(0.5)(torch.tensor([[3.0, -4.0], [0.0, 2.0]])))  # 0.5 · (5 + 2)
    3.5

    Source: Yuan and Lin 2006; Wen et al. 2016, "Learning Structured Sparsity in Deep Neural
    Networks".
    """

    l: Strength = 0.01  # noqa: E741 - the article's symbol

    @override
    def value(self, weight: Tensor) -> Tensor:
        return self.l * torch.linalg.vector_norm(rows(weight, "GroupLasso"), dim=1).sum()


@dataclass(frozen=True)
class ProximalL1(Penalty):
    """l · Σ|w| by proximal steps: weights become exactly 0 and stay there. Default l = 0.01.

    After each step of the optimiser, of rate η,

        w ← sign(w) · max(|w| - η·l, 0),

    while the penalty itself has no gradient (it only shows in the loss). A subgradient, as `L1`
    has it, steps over zero and back; this stops there. With plain SGD it is ISTA; with an
    adaptive optimiser η is still the group's learning rate. `regularizers.sparsity` tells how
    many weights have become 0.

    `Trainer` takes the steps; a loop of your own calls `regularizers.proximal_step`.

    >>> weight = torch.tensor([0.5, 0.02, 0.01])
    >>> ProximalL1(0.1).shrink(weight, rate=0.2)
    >>> weight
    tensor([0.4800, 0.0000, 0.0000])

    Source: Daubechies, Defrise and De Mol 2004; Parikh and Boyd 2014, "Proximal Algorithms".
    """

    l: Strength = 0.01  # noqa: E741 - the article's symbol

    @override
    def value(self, weight: Tensor) -> Tensor:
        return self.l * weight.detach().abs().sum()

    def shrink(self, weight: Tensor, rate: float, step: int = 0) -> None:
        """One proximal step of that learning rate, in place."""
        require_floating(weight, "what ProximalL1 shrinks")
        with torch.no_grad():
            weight.copy_(torch_functional.softshrink(weight, self.threshold(rate, step)))

    def threshold(self, rate: float, step: int = 0) -> float:
        """How far such a step moves a weight towards 0: η·l."""
        return float(rate) * float(self.at(step).l)
