"""A share of the data held out: their end, as Keras does it, or evenly of each class."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from pyconvopt.data import checks
from pyconvopt.data.image_folder import ImageFolder
from pyconvopt.data.rows import Rows, Selected


def split(data: Any, share: float) -> tuple[Any, Any]:
    """The data without a share of their end, and that share.

    `data`: (x, y) or (x, y, weights) of arrays, an `ImageFolder`, or a torch Dataset with a length.
    Pictures of a folder lie class by class, so that share is taken of each class.

    Errors: ValueError for a share that is none, or leaves one side empty; TypeError for data that
    come in batches.

    >>> kept, held_out = split(([[0.0], [1.0], [2.0], [3.0]], [0, 1, 0, 1]), share=0.25)
    >>> kept[1].tolist(), held_out[1].tolist()
    ([0, 1, 0], [1])
    """
    if isinstance(data, ImageFolder):
        is_held_out = of_each_class(data.labels, share, "validation_split")
        return part(data.images, data.labels, ~is_held_out), part(
            data.images, data.labels, is_held_out
        )
    if isinstance(data, TensorDataset):
        data = data.tensors
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        samples = len(data)  # type: ignore[arg-type]
        kept = kept_samples(samples, share)
        return Subset(data, range(kept)), Subset(data, range(kept, samples))
    if not isinstance(data, tuple) or not 2 <= len(data) <= 3:
        raise TypeError(
            "validation_split divides arrays (x, y), a folder of pictures or a Dataset with a "
            f"length, got {type(data).__name__}: give validation_data"
        )
    images = checks.as_samples(data[0])
    others = [checks.as_tensor(each, name) for each, name in zip(data[1:], NAMES, strict=False)]
    for each in others:
        checks.require_same_length(images, each)
    kept = kept_samples(len(images), share)
    ends = (slice(0, kept), slice(kept, len(images)))
    first, second = ((rows_of(images, end), *(each[end] for each in others)) for end in ends)
    return first, second


def divided(images: Any, labels: np.ndarray, test_share: float) -> Any:
    """A share of each class held out, at least one sample, drawn with a fixed seed.

    >>> train, test = divided(np.arange(10), np.repeat([0, 1], 5), test_share=0.2)
    >>> train[1].tolist(), test[1].tolist()
    ([0, 0, 0, 0, 1, 1, 1, 1], [0, 1])
    """
    if len(images) != len(labels):
        raise ValueError(f"got {len(images)} images and {len(labels)} labels, wanted one an image")
    if labels.ndim != 1:
        raise ValueError(f"labels must be one an image, got shape {labels.shape}")
    is_test = of_each_class(labels, test_share, "test_share")
    return part(images, labels, ~is_test), part(images, labels, is_test)


NAMES = ("labels", "weights")


def rows_of(images: Tensor | Rows, end: slice) -> Tensor | Rows:
    """Some samples in a row; those on disk stay there."""
    if isinstance(images, Rows):
        return Selected(images, range(*end.indices(len(images))))
    return images[end]


def part(images: Any, labels: np.ndarray, chosen: np.ndarray) -> tuple[Any, np.ndarray]:
    """The samples that a mask chooses; rows stay where they are."""
    if isinstance(images, Rows):
        return Selected(images, np.flatnonzero(chosen).tolist()), labels[chosen]
    return images[chosen], labels[chosen]


def kept_samples(samples: int, share: float) -> int:
    """How many samples are trained on if that share of their end is held out, as in Keras."""
    if not 0 < share < 1:
        raise ValueError(f"validation_split must lie between 0 and 1, got {share}")
    kept = int(samples * (1 - share))
    if kept == 0 or kept == samples:
        raise ValueError(f"validation_split={share} of {samples} samples leaves one side empty")
    return kept


def of_each_class(labels: np.ndarray, share: float, name: str) -> np.ndarray:
    """Which samples are held out: a share of each class, at least one, but not all, drawn with a
    fixed seed.

    `name`: what the share is called in an error.
    """
    if not 0 < share < 1:
        raise ValueError(f"{name} must lie between 0 and 1, got {share}")
    generator = np.random.default_rng(0)
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        if len(members) < 2:
            raise ValueError(
                f"class {label} has one sample, which cannot be both trained and tested on"
            )
        held_out = min(max(1, round(share * len(members))), len(members) - 1)
        chosen[members[:held_out]] = True
    return chosen
