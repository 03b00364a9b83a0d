"""Augmentation of whole batches, for `data.ArrayLoader(x, y, augment=[...])`.

    >>> import torch
    >>> from pyconvopt.data import ArrayLoader
    >>> x, y = torch.rand(100, 28, 28, 1), torch.arange(100) % 10
    >>> steps = [RandomCrop(4), AlternatingFlip(), RandomErasing(), MixUp()]
    >>> loader = ArrayLoader(x, y, batch_size=64, shuffle=True, seed=0, augment=steps)
    >>> images, labels = next(iter(loader))
    >>> images.shape, labels.shape
    (torch.Size([64, 28, 28, 1]), torch.Size([64, 10]))

What happens to an image depends on (seed, epoch, index of the image) alone, so it is the same for
any batch size and any order, and in a run that is taken up again.

MixUp and CutMix make soft labels: rows (N, classes) of shares that sum to 1. The losses
'sparse_categorical_crossentropy', 'cross_entropy' and 'categorical_crossentropy' take them as
they are (-Σ target · log p), torch's nn.CrossEntropyLoss too; validation data may keep class
numbers with the first two. Accuracy counts the class of the larger share.
"""

from pyconvopt.data.augment.erasing import Cutout, RandomErasing
from pyconvopt.data.augment.geometry import (
    AlternatingFlip,
    RandomCrop,
    RandomHorizontalFlip,
    RandomRotation,
    RandomTranslation,
)
from pyconvopt.data.augment.mixing import CutMix, MixUp
from pyconvopt.data.augment.pipeline import Compose, Mixing, Transform, pipeline

__all__ = [
    "AlternatingFlip",
    "Compose",
    "CutMix",
    "Cutout",
    "MixUp",
    "Mixing",
    "RandomCrop",
    "RandomErasing",
    "RandomHorizontalFlip",
    "RandomRotation",
    "RandomTranslation",
    "Transform",
    "pipeline",
]
