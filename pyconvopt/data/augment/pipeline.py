"""Transforms in a row, and where their random numbers come from.

Before an epoch each transform draws one row of uniform numbers for every image of the data set:
a table (images, draws) from a generator that knows seed, epoch and the transform's place. A batch
picks its images' rows, so nothing depends on how the images are batched or ordered.

Transforms see float32 images (N, C, H, W), a view of whatever layout the arrays have, and work on
all of them at once. A mixing transform also gets each image's partner, drawn from the whole data
set, which has gone through the transforms before it like any other image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as torch_functional
from torch import Tensor

from pyconvopt import registry
from pyconvopt.data.choice import chosen
from pyconvopt.data.rows import Rows

LAYOUTS = {"channels_last": (0, 3, 1, 2), "channels_first": (0, 1, 2, 3)}


def generator(seed: int, epoch: int, position: int) -> np.random.Generator:
    """The random numbers of one transform in one epoch."""
    return np.random.default_rng((seed % 2**63, epoch, position))


class Transform:
    """Base class: images and their uniform numbers in, images of the same shape out.

    `draws` is how many numbers in [0, 1) one image takes.
    """

    draws = 1

    def table(self, samples: int, seed: int, epoch: int, position: int) -> Tensor:
        """The epoch's numbers, one row an image: (samples, draws)."""
        numbers = generator(seed, epoch, position).random((samples, self.draws), np.float32)
        return torch.from_numpy(numbers)

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """(N, C, H, W) float images and (N, draws) numbers to images; the input stays as it is."""
        raise NotImplementedError


class Mixing(Transform):
    """Base class of transforms that mix an image with a partner; the first number draws it.

    num_classes: the length of a soft label (None: the largest label of the data set, plus one).
    """

    num_classes: int | None = None

    def mix(
        self, images: Tensor, labels: Tensor, others: Tensor, their_labels: Tensor, numbers: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Images and soft labels (N, classes), mixed with their partners'."""
        raise NotImplementedError


class Compose:
    """Transforms one after the other.

    Args: transforms; data_format: where the channels of four-dimensional arrays lie,
    'channels_last' or 'channels_first' (None: seen from the sizes, as the axis of 1, 3 or 4).
    Arrays (N, H, W) have one channel.

    Errors: TypeError for anything but a transform, ValueError for arrays that hold no images.
    """

    def __init__(self, transforms: Sequence[Transform], data_format: str | None = None) -> None:
        for each in transforms:
            if not isinstance(each, Transform):
                hint = f": write {each.__name__}()" if isinstance(each, type) else ""
                raise TypeError(f"augment takes transforms of data.augment, got {each!r}{hint}")
        self.transforms = list(transforms)
        names = {name: name for name in LAYOUTS}
        self.data_format = data_format and registry.find("data_format", names, data_format)

    def bind(self, x: Tensor | Rows, y: Tensor | None, seed: int, epoch: int) -> Augmented:
        """The data set as it is in that epoch."""
        return Augmented(self, x, y, seed, epoch)

    def __repr__(self) -> str:
        return f"Compose({self.transforms})"


def pipeline(spec: Any) -> Compose:
    """A `Compose` from one, from a list of transforms, or from a single transform."""
    if isinstance(spec, Compose):
        return spec
    return Compose(spec if isinstance(spec, (list, tuple)) else [spec])


class Augmented:
    """A data set in one epoch: called with indices, it gives their images and labels, augmented."""

    def __init__(
        self, steps: Compose, x: Tensor | Rows, y: Tensor | None, seed: int, epoch: int
    ) -> None:
        self.x, self.y = x, y
        self.steps = steps.transforms
        self.axes = image_axes(x, steps.data_format)
        self.tables = [
            step.table(len(x), seed, epoch, position) for position, step in enumerate(self.steps)
        ]
        mixings = [step for step in self.steps if isinstance(step, Mixing)]
        self.classes = class_count(mixings, y) if mixings else None

    def __call__(self, rows: Tensor | slice) -> tuple[Tensor, Tensor | None]:
        """The batch of those rows, in the arrays' own layout."""
        indices = torch.arange(len(self.x))[rows] if isinstance(rows, slice) else rows
        images, labels = self.after(len(self.steps), indices)
        if self.axes is None:
            return images[:, 0], labels
        back = sorted(range(4), key=self.axes.__getitem__)
        return images.permute(back).contiguous(), labels

    def after(self, count: int, rows: Tensor) -> tuple[Tensor, Any]:
        """Images (N, C, H, W) and labels after the first `count` transforms."""
        if count == 0:
            return self.plain(rows)
        images, labels = self.after(count - 1, rows)
        step, numbers = self.steps[count - 1], self.tables[count - 1].index_select(0, rows)
        if not isinstance(step, Mixing):
            return step(images, numbers), labels
        partners = (numbers[:, 0] * len(self.x)).long().clamp(max=len(self.x) - 1)
        return step.mix(images, labels, *self.after(count - 1, partners), numbers)

    def plain(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """The images as they are, labels as one-hot rows if they are to be mixed."""
        images, labels = chosen(self.x, self.y, rows)
        images = images[:, None] if self.axes is None else images.permute(self.axes)
        if labels is None or self.classes is None or labels.is_floating_point():
            return images, labels
        one_hot = torch_functional.one_hot(labels.reshape(len(rows)).long(), self.classes)
        return images, one_hot.to(torch.float32)


def image_axes(x: Tensor | Rows, data_format: str | None) -> tuple[int, int, int, int] | None:
    """The permutation to N, C, H, W; None for images without a channel axis."""
    if x.dim() == 3:
        return None
    if x.dim() != 4:
        raise ValueError(
            f"augmentation wants images (N, H, W) or with channels, got shape {tuple(x.shape)}"
        )
    if data_format is None:
        fits = [name for name, axes in LAYOUTS.items() if x.shape[axes[1]] in (1, 3, 4)]
        if len(fits) != 1:
            raise ValueError(
                f"images of shape {tuple(x.shape)} do not tell where their channels lie: use "
                "augment=Compose([...], data_format='channels_last') or 'channels_first'"
            )
        data_format = fits[0]
    return LAYOUTS[data_format]


def class_count(mixings: Sequence[Mixing], y: Tensor | None) -> int:
    """The number of classes of soft labels, as given or as the labels show."""
    if y is None:
        raise ValueError("MixUp and CutMix need labels: give data as (images, labels)")
    given = [each.num_classes for each in mixings if each.num_classes is not None]
    if y.is_floating_point():
        if y.dim() != 2:
            raise ValueError(
                "MixUp and CutMix take class numbers (whole numbers) or soft labels (N, classes), "
                f"got {y.dtype} of shape {tuple(y.shape)}"
            )
        if any(number != y.shape[1] for number in given):
            raise ValueError(
                f"num_classes is {given[0]}, but the soft labels have {y.shape[1]} classes"
            )
        return y.shape[1]
    if y.numel() != len(y):
        raise ValueError(f"MixUp and CutMix take one class number an image, got {tuple(y.shape)}")
    if int(y.min()) < 0:
        raise ValueError(f"MixUp and CutMix take class numbers of 0 or more, got {int(y.min())}")
    seen = int(y.max()) + 1
    if any(number < seen for number in given):
        raise ValueError(f"num_classes is {min(given)}, but there is a label {seen - 1}")
    return max(given, default=seen)
