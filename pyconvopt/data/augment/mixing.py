"""Two images in one, and soft labels that say how much of each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from pyconvopt.data.augment.erasing import rectangles
from pyconvopt.data.augment.geometry import share
from pyconvopt.data.augment.pipeline import Mixing, generator
from pyconvopt.data.checks import whole


@dataclass(frozen=True)
class Mixed(Mixing):
    """What both share: λ ~ Beta(alpha, alpha) for each image, 1 with probability 1 - p."""

    alpha: float = 1.0
    p: float = 1.0
    num_classes: int | None = None

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ValueError(f"alpha must be above 0, got {self.alpha}")
        if math.isinf(self.alpha):
            raise ValueError(f"alpha must be above 0, and finite, got {self.alpha}")
        share(self.p, "p")
        if self.num_classes is not None:
            object.__setattr__(self, "num_classes", whole("num_classes", self.num_classes))

    @override
    def table(self, samples: int, seed: int, epoch: int, position: int) -> Tensor:
        """(samples, 4): the partner, λ, and two uniform numbers."""
        draw = generator(seed, epoch, position)
        numbers = torch.from_numpy(draw.random((samples, 5)))
        portion = torch.from_numpy(draw.beta(self.alpha, self.alpha, samples))
        portion = torch.where(numbers[:, 4] < self.p, portion, 1.0)
        return torch.cat([numbers[:, :1], portion[:, None], numbers[:, 2:4]], dim=1)


def blend(labels: Tensor, their_labels: Tensor, portion: Tensor) -> Tensor:
    """Soft labels: a portion (N,) of the own ones, the rest of the partners'."""
    return torch.lerp(their_labels, labels, portion[:, None].to(labels.dtype))


@dataclass(frozen=True)
class MixUp(Mixed):
    """x = λ·x₁ + (1 - λ)·x₂ and y = λ·y₁ + (1 - λ)·y₂, λ ~ Beta(alpha, alpha) for each image.

    Args: alpha (0.2), p (1, the share of images that are mixed), num_classes (None: the largest
    label of the data set, plus one).

    Labels come out as (N, classes) shares; see `data.augment` for the losses that take them.

    Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization".
    """

    alpha: float = 0.2

    @override
    def mix(
        self, images: Tensor, labels: Tensor, others: Tensor, their_labels: Tensor, numbers: Tensor
    ) -> tuple[Tensor, Tensor]:
        portion = numbers[:, 1].float()
        mixed = torch.lerp(others, images, portion[:, None, None, None])
        return mixed, blend(labels, their_labels, portion)


@dataclass(frozen=True)
class CutMix(Mixed):
    """A rectangle of each image is its partner's; labels are shared by the areas.

    The rectangle has the image's proportions and the area 1 - λ, λ ~ Beta(alpha, alpha); its middle
    lies anywhere, what lies outside is cut off, and the labels' λ is the share of pixels kept.

    Args: alpha (1), p (1, the share of images that are mixed), num_classes (None: the largest
    label of the data set, plus one).

    Source: Yun et al. 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with
    Localizable Features".
    """

    @override
    def mix(
        self, images: Tensor, labels: Tensor, others: Tensor, their_labels: Tensor, numbers: Tensor
    ) -> tuple[Tensor, Tensor]:
        height, width = images.shape[2:]
        side = (1 - numbers[:, 1]).sqrt()

        def edges(size: int, place: Tensor) -> tuple[Tensor, Tensor]:
            middle, half = (place * size).floor(), (side * size / 2).round()
            return (middle - half).clamp(0, size), (middle + half).clamp(0, size)

        down, across = edges(height, numbers[:, 2]), edges(width, numbers[:, 3])
        mask = rectangles(*down, *across, images)
        kept = 1 - mask.float().mean(dim=(1, 2, 3))
        return torch.where(mask, others, images), blend(labels, their_labels, kept)
