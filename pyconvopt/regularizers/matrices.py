"""Penalties on a kernel as a linear map: W with a filter in each row, (K, C·kh·kw)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from typing_extensions import override

from pyconvopt.data.checks import whole
from pyconvopt.regularizers.base import Penalty, Strength, checked, rows


@dataclass(frozen=True)
class Orthogonal(Penalty):
    """l · ‖G - I‖², the sum of squares, G the smaller of W·Wᵀ and Wᵀ·W. Default l = 0.01.

    Filters (for a tall W: the columns) are driven to be orthonormal. The larger of the two
    matrices would add a constant only, |K - C·kh·kw|, and leave every gradient the same. (Keras'
    `OrthogonalRegularizer` is another measure: it looks at the angles alone.)

    Errors: ValueError for a vector.

    >>> float(Orthogonal(0.5)(torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])))  # (4 - 1)² / 2
    4.5

    Source: Bansal, Chen and Wang 2018, "Can We Gain More from Orthogonality Regularizations in
    Training Deep CNNs?"
    """

    l: Strength = 0.01  # noqa: E741 - the article's symbol

    @override
    def value(self, weight: Tensor) -> Tensor:
        matrix = rows(weight, "Orthogonal")
        wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.t()
        identity = torch.eye(len(wide), dtype=weight.dtype, device=weight.device)
        return self.l * (wide @ wide.t() - identity).square().sum()


@lru_cache(maxsize=256)
def start(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Where power iteration starts: always the same direction, orthogonal to nothing special."""
    generator = torch.Generator().manual_seed(size)
    return torch.randn(size, dtype=torch.float64, generator=generator).to(device, dtype)


@dataclass(frozen=True)
class SpectralNorm(Penalty):
    """(l / 2) · σ², σ the largest singular value of W. Defaults l = 0.01, iterations = 20.

    σ = uᵀ·W·v with u, v from `iterations` rounds of power iteration on the smaller Gram matrix.
    It starts anew each time, so nothing has to be saved beside the weights; the estimate is never
    above σ, and near it unless the two largest singular values are nearly alike (then either of
    them may stand for both). The gradient is l·σ·u·vᵀ.

    Errors: ValueError for a vector, or less than one iteration.

    >>> weight = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    >>> round(float(SpectralNorm(1.0)(weight)), 4)  # 3² / 2
    4.5

    Source: Yoshida and Miyato 2017, "Spectral Norm Regularization for Improving the
    Generalizability of Deep Learning".
    """

    l: Strength = 0.01  # noqa: E741 - the article's symbol
    iterations: int = 20

    def __post_init__(self) -> None:
        checked(self.l, "l")
        whole("iterations", self.iterations)

    @override
    def value(self, weight: Tensor) -> Tensor:
        matrix = rows(weight, "SpectralNorm")
        wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.t()
        with torch.no_grad():
            gram = wide @ wide.t()
            u = start(len(wide), weight.dtype, weight.device)
            for _ in range(self.iterations):
                u = torch.nn.functional.normalize(gram @ u, dim=0)
            v = torch.nn.functional.normalize(u @ wide, dim=0)
        return 0.5 * self.l * (u @ wide @ v).square()
