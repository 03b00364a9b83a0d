"""Initial values of weights, filled in place: `initializer(tensor)`.

Tensors are in torch's layout: convolution kernels (out, in / groups, height, width), dense ones
(out, in). fan_in counts the inputs that meet in one output, fan_out the outputs that one input
reaches, all filters counted, as Keras counts them.

Sources: Glorot and Bengio 2010 (glorot), He et al. 2015 (he), LeCun et al. 1998 (lecun),
Saxe et al. 2014 (orthogonal), Zagoruyko and Komodakis 2017 (dirac).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from pyconvopt import registry
from pyconvopt.data.checks import whole
from pyconvopt.whitening import patch_whitening_

# Cutting a standard normal at two deviations leaves this deviation; dividing by it restores 1.
TRUNCATED_DEVIATION = 0.87962566103423978


def fans(tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight in torch's layout.

    >>> fans(torch.empty(64, 32, 3, 3))
    (288, 576)
    """
    if tensor.dim() < 2:
        return tensor.numel(), tensor.numel()
    window = math.prod(tensor.shape[2:])
    return tensor.shape[1] * window, tensor.shape[0] * window


class Initializer:
    """Base class: fills a tensor in place and returns it."""

    def __call__(self, tensor: Tensor) -> Tensor:
        """Fill the tensor in place and return it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Initializer):
    """Every weight equal to `value` (default 0)."""

    value: float = 0.0

    @override
    def __call__(self, tensor: Tensor) -> Tensor:
        return nn.init.constant_(tensor, self.value)


@dataclass(frozen=True)
class Zeros(Initializer):
    """Every weight 0."""

    @override
    def __call__(self, tensor: Tensor) -> Tensor:
        return nn.init.zeros_(tensor)


@dataclass(frozen=True)
class Ones(Initializer):
    """Every weight 1."""

    @override
    def __call__(self, tensor: Tensor) -> Tensor:
        return nn.init.ones_(tensor)


class Random(Initializer):
    """What the random initialisers share: `seed`, None for torch's global generator.

    It is their last argument, as in Keras.
    """

    seed: int | None

    def __post_init__(self) -> None:
        if self.seed is not None:
            whole("seed", self.seed, None)

    def generator(self) -> torch.Generator | None:
        """A fresh generator with that seed, or None for torch's own."""
        return None if self.seed is None else torch.Generator().manual_seed(int(self.seed))


def checked(name: str, value: float, above: bool = False) -> None:
    """Refuse a number below 0 (`above`: 0 too), NaN, and what is no number."""
    if not isinstance(value, Real) or not (value > 0 if above else value >= 0):
        wanted = "above 0" if above else "0 or more"
        raise ValueError(f"{name} must be a number {wanted}, got {value!r}")


@dataclass(frozen=True)
class RandomNormal(Random):
    """Normal with `mean` (0) and `stddev` (0.05)."""

    mean: float = 0.0
    stddev: float = 0.05
    seed: int | None = None

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        checked("stddev", self.stddev)

    @override
    def __call__(self, tensor: Tensor) -> Tensor:
        return nn.init.normal_(tensor, self.mean, self.stddev, generator=self.generator())


@dataclass(frozen=True)
class TruncatedNormal(RandomNormal):
    """Normal with `mean` (0) and `stddev` (0.05), redrawn beyond two deviations."""

    @override
    def __call__(self, tensor: Tensor) -> Tensor:
        if self.stddev == 0:  # torch divides by it
            return nn.init.constant_(tensor, self.mean)
        low, high = self.mean - 2 * self.stddev, self.mean + 2 * self.stddev
        return nn.init.trunc_normal_(
            tensor, self.mean, self.stddev, low, high, generator=self.generator()
        )


@dataclass(frozen=True)
class RandomUniform(Random):
    """Uniform between `minval` (-0.05) and `maxval` (0.05)."""

    minval: float = -0.05
    maxval: float = 0.05
    seed: int | None = None

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.minval <= self.maxval:
            raise ValueError(
                f"minval must not be above maxval, got {self.minval} and {self.maxval}"
            )

    @override
    def __call__(self, tensor: Tensor) -> Tensor:
        return nn.init.uniform_(tensor, self.minval, self.maxval, generator=self.generator())


@dataclass(frozen=True)
class Orthogonal(Random):
    """Orthonormal rows or columns of the (out, everything else) matrix, times `gain` (1)."""

    gain: float = 1.0
    seed: int | None = None

    @override
    def __call__(self, tensor: Tensor) -> Tensor:
        # Torch fills only memory in the order of the axes, a layer's kernel is channels_last.
        dense = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
        with torch.no_grad():
            return tensor.copy_(nn.init.orthogonal_(dense, self.gain, generator=self.generator()))


@dataclass(frozen=True)
class Identity(Initializer):
    """`gain` (1) on the diagonal of a dense kernel, 0 elsewhere; kernels of two axes only.

    >>> Identity()(torch.empty(2, 3))
    tensor([[1., 0., 0.],
            [0., 1., 0.]])
    """

    gain: float = 1.0

    @override
    def __call__(self, tensor: Tensor) -> Tensor:
        if tensor.dim() != 2:
            raise ValueError(
                f"identity fills dense kernels (out, in), got shape {tuple(tensor.shape)}: the "
                "same for convolutions is dirac"
            )
        with torch.no_grad():
            return nn.init.eye_(tensor).mul_(self.gain)


@dataclass(frozen=True)
class Dirac(Initializer):
    """A convolution that hands its input on: filter i is 1 at the middle of channel i, else 0.

    In each of `groups` (1) parts of the filters anew; filters beyond the channels are 0. With odd
    kernels and 'same' padding the output's first channels are the input.

    Errors: ValueError for a kernel of less than three axes, or filters the groups do not divide.

    >>> Dirac()(torch.empty(1, 1, 3, 3))
    tensor([[[[0., 0., 0.],
              [0., 1., 0.],
              [0., 0., 0.]]]])
    """

    groups: int = 1

    @override
    def __call__(self, tensor: Tensor) -> Tensor:
        if not 3 <= tensor.dim() <= 5:
            raise ValueError(
                f"dirac fills convolution kernels, got shape {tuple(tensor.shape)}: the same for "
                "dense kernels is identity"
            )
        return nn.init.dirac_(tensor, self.groups)


@dataclass(frozen=True)
class VarianceScaling(Random):
    """Random weights of variance scale / fan.

    `mode` chooses the fan: 'fan_in', 'fan_out' or 'fan_avg'; `distribution` is
    'truncated_normal' (cut at two deviations, variance restored), 'untruncated_normal' or
    'uniform' (between ±√(3·scale/fan)).

    Errors: ValueError for a scale that is not above 0, or an unknown mode or distribution.
    """

    scale: float = 1.0
    mode: str = "fan_in"
    distribution: str = "truncated_normal"
    seed: int | None = None

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        checked("scale", self.scale, above=True)
        self.filling(1, 1)

    @override
    def __call__(self, tensor: Tensor) -> Tensor:
        return self.filling(*fans(tensor))(tensor)

    def filling(self, fan_in: int, fan_out: int) -> Initializer:
        """What fills a weight of those fans."""
        modes = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
        fan = registry.find("mode of VarianceScaling", modes, self.mode)
        deviation = math.sqrt(self.scale / max(1.0, fan))
        cut = deviation / TRUNCATED_DEVIATION
        limit = math.sqrt(3.0) * deviation
        return registry.find(
            "distribution of VarianceScaling",
            {
                "truncated_normal": TruncatedNormal(0.0, cut, self.seed),
                "untruncated_normal": RandomNormal(0.0, deviation, self.seed),
                "uniform": RandomUniform(-limit, limit, self.seed),
            },
            self.distribution,
        )


@dataclass(frozen=True)
class NamedScaling(VarianceScaling):
    """A `VarianceScaling` with a name of its own, whose first argument is the seed, as in Keras."""

    scale: float = field(default=1.0, kw_only=True)
    mode: str = field(default="fan_in", kw_only=True)
    distribution: str = field(default="truncated_normal", kw_only=True)


@dataclass(frozen=True, kw_only=True)
class GlorotUniform(NamedScaling):
    """Uniform between ±√(6 / (fan_in + fan_out)): Keras' default for kernels.

    >>> weight = GlorotUniform(seed=0)(torch.empty(64, 32, 3, 3))
    >>> bool(weight.abs().max() <= (6 / (288 + 576)) ** 0.5)
    True
    """

    mode: str = "fan_avg"
    distribution: str = "uniform"


@dataclass(frozen=True, kw_only=True)
class GlorotNormal(NamedScaling):
    """Truncated normal of variance 2 / (fan_in + fan_out)."""

    mode: str = "fan_avg"


@dataclass(frozen=True, kw_only=True)
class HeUniform(NamedScaling):
    """Uniform between ±√(6 / fan_in): made for ReLU."""

    scale: float = 2.0
    distribution: str = "uniform"


@dataclass(frozen=True, kw_only=True)
class HeNormal(NamedScaling):
    """Truncated normal of variance 2 / fan_in: made for ReLU."""

    scale: float = 2.0


@dataclass(frozen=True, kw_only=True)
class LecunUniform(NamedScaling):
    """Uniform between ±√(3 / fan_in)."""

    distribution: str = "uniform"


@dataclass(frozen=True)
class LecunNormal(NamedScaling):
    """Truncated normal of variance 1 / fan_in: made for SELU."""


TABLE: dict[str, type] = {
    "zeros": Zeros,
    "ones": Ones,
    "constant": Constant,
    "random_normal": RandomNormal,
    "truncated_normal": TruncatedNormal,
    "random_uniform": RandomUniform,
    "orthogonal": Orthogonal,
    "identity": Identity,
    "dirac": Dirac,
    "variance_scaling": VarianceScaling,
    "glorot_uniform": GlorotUniform,
    "glorot_normal": GlorotNormal,
    "he_uniform": HeUniform,
    "he_normal": HeNormal,
    "lecun_uniform": LecunUniform,
    "lecun_normal": LecunNormal,
    "normal": RandomNormal,  # Keras' short names
    "uniform": RandomUniform,
}


def get(spec: Any) -> Callable[[Tensor], Tensor]:
    """The initialiser of that name, or the callable itself (it fills a tensor or returns another).

    >>> get('he_normal')
    HeNormal(scale=2.0, mode='fan_in', distribution='truncated_normal', seed=None)
    """
    return registry.make("initializer", TABLE, spec)


def describe(initializer: Any) -> dict[str, Any]:
    """Name and settings for a saved model; `get` reads them back."""
    return registry.describe("initializer", TABLE, initializer)


__all__ = [
    *dict.fromkeys(entry.__name__ for entry in TABLE.values()),
    "Initializer",
    "describe",
    "fans",
    "get",
    "patch_whitening_",
]
