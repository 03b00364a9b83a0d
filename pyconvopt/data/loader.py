"""Batches from arrays in memory, without Python for each sample.

A batch is one gather of its rows out of the whole arrays, with the cast to float32 (see `choice`).
Images can so stay uint8 in memory (a quarter of the bytes) and are only made floats 64 at a time.
Those that lie in a file, or are still to be decoded, are read a batch at a time (see `rows`). The order
of an epoch is a function of seed and epoch number alone, so a run can be repeated from any epoch on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, TensorDataset

from pyconvopt.data import augment as augmentation
from pyconvopt.data import checks
from pyconvopt.data.choice import as_floats, chosen
from pyconvopt.data.image_folder import ImageFolder


class ArrayLoader:
    """Batches (x, y), x alone, or (x, y, weights), of arrays or tensors.

    Args: x, y (None), batch_size (32), shuffle (False), seed (None: drawn from torch's generator,
    so that torch.manual_seed decides), drop_last (False: a smaller last batch is given too),
    augment (None: transforms of `data.augment`, one, a list, or a `Compose`), weights (None; one a
    sample, or of each pixel or step, for the loss).

    Memory-mapped arrays, the path of a .npy file and other `data.Rows` stay where they are: each
    batch reads its own samples. Labels are kept in memory.

    Floats and pixels come out as float32, y in the type it has. Each `iter` is one epoch with an
    order of its own; setting `epoch` repeats one.

    Errors: TypeError and ValueError for what is no array of numbers, empty, or unequal in length.

    >>> loader = ArrayLoader([[0.0], [1.0], [2.0]], [0, 1, 2], batch_size=2)
    >>> [(x.flatten().tolist(), y.tolist()) for x, y in loader]
    [([0.0, 1.0], [0, 1]), ([2.0], [2])]
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        batch_size: int = 32,
        shuffle: bool = False,
        seed: int | None = None,
        drop_last: bool = False,
        augment: Any = None,
        weights: Any = None,
    ) -> None:
        batch_size = checks.whole("batch_size", batch_size)
        seed = None if seed is None else checks.whole("seed", seed, None)
        self.x = checks.as_samples(x)
        self.y = None if y is None else checks.as_tensor(y, "labels")
        checks.require_samples(self.x, "images")
        if self.y is not None:
            checks.require_samples(self.y, "labels")
            checks.require_same_length(self.x, self.y)
        if weights is not None and y is None:
            raise ValueError("weights go with labels: give y, too")
        self.weights = None if weights is None else checks.sample_weights(weights, self.x)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.augment = None if augment is None else augmentation.pipeline(augment)
        draws = shuffle or self.augment is not None
        self.seed = int(torch.randint(2**31, ())) if seed is None and draws else seed
        self.drop_last = drop_last
        self.epoch = 0
        self.part = (0, 1)  # which of how many parts of each batch is given
        self.first_of_part = 0  # where the last one given begins in its batch

    @property
    def samples(self) -> int:
        """The number of samples in the arrays."""
        return len(self.x)

    @property
    def last_batch(self) -> int:
        """The number of samples in an epoch's last batch."""
        rest = self.samples % self.batch_size
        return rest if rest and not self.drop_last else min(self.batch_size, self.samples)

    def __len__(self) -> int:
        whole, rest = divmod(self.samples, self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def order(self, epoch: int) -> Tensor | None:
        """The samples' order in that epoch; None where it is the arrays' own."""
        if not self.shuffle:
            return None
        return shuffled(self.samples, self.seed or 0, epoch)

    def pick(self, rows: Any) -> tuple[Tensor, Tensor | None]:
        """The samples of a slice or of an index tensor, images as float32."""
        if isinstance(rows, slice):
            return as_floats(self.x[rows]), None if self.y is None else self.y[rows]
        return chosen(self.x, self.y, rows)

    def __iter__(self) -> Iterator[Any]:
        self.epoch += 1
        return self.batches(self.epoch - 1)

    def batches(self, epoch: int, first: int = 0) -> Iterator[Any]:
        """The batches of that epoch, from number `first` on; those before cost nothing."""
        order, pick = self.order(epoch), self.pick
        # Cut at once: between training steps, with cold caches, a cut costs some 40 µs.
        pieces = None if order is None else order.split(self.batch_size)
        if self.augment is not None:
            pick = self.augment.bind(self.x, self.y, self.seed or 0, epoch)
        for batch in range(first, len(self)):
            start = batch * self.batch_size
            size = min(self.batch_size, self.samples - start)
            own = part_of(size, *self.part)
            self.first_of_part = own.start
            if pieces is None:
                rows: Any = slice(start + own.start, start + own.stop)
            else:
                rows = pieces[batch] if own == slice(0, size) else pieces[batch][own]
            x, y = pick(rows)
            if y is None:
                yield x
            elif self.weights is None:
                yield x, y
            else:
                yield x, y, self.weights[rows]


def shuffled(samples: int, seed: int, epoch: int) -> Tensor:
    """The order of that many samples in an epoch."""
    number = seed * 1_000_003 + epoch
    if not -(2**63) <= number < 2**64:  # what torch takes
        number %= 2**64
    generator = torch.Generator().manual_seed(number)
    return torch.randperm(samples, generator=generator)


class SeededOrder(Sampler[int]):
    """The order of an `ArrayLoader` for a Dataset: a function of seed and epoch alone."""

    def __init__(self, samples: int, seed: int, epoch: int = 0) -> None:
        self.samples, self.seed, self.epoch = samples, seed, epoch

    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        return iter(shuffled(self.samples, self.seed, self.epoch - 1).tolist())

    def __len__(self) -> int:
        return self.samples


def part_of(size: int, number: int, parts: int) -> slice:
    """Which of `size` samples belong to one of several parts; sizes differ by one at most.

    >>> [part_of(7, number, 3) for number in range(3)]
    [slice(0, 2, None), slice(2, 4, None), slice(4, 7, None)]
    """
    return slice(size * number // parts, size * (number + 1) // parts)


class BatchSource:
    """Batches (x, y) or (x, y, weights) that somebody else makes: arrays or tensors.

    `source`: an iterator, such as a generator, which goes on from epoch to epoch; or what gives a
    new one for each: an iterable, or a function without arguments. `labels` (True): a batch must
    have them; else it may be x alone.

    >>> source = BatchSource(lambda: (([[0.5], [1.5]], [0, 1]) for _ in range(4)))
    >>> len(list(source)), len(list(source))
    (4, 4)
    """

    batch_size = None
    weights = None

    def __init__(
        self, source: Iterable[Any] | Callable[[], Iterable[Any]], labels: bool = True
    ) -> None:
        self.source = source
        self.labels = labels

    @property
    def is_read_once(self) -> bool:
        """Whether what was read is gone, as with a generator."""
        return isinstance(self.source, Iterator)

    def __iter__(self) -> Iterator[Any]:
        source: Any = self.source() if callable(self.source) else self.source
        for parts in source:
            if not self.labels and not isinstance(parts, (tuple, list)):
                yield checks.as_tensor(parts, "images").to(torch.float32)
                continue
            checks.require_parts(parts)
            x, y = checks.as_tensor(parts[0], "images"), checks.as_tensor(parts[1], "labels")
            checks.require_same_length(x, y)
            weights = [checks.sample_weights(each, x) for each in parts[2:]]
            yield (x.to(torch.float32), y, *weights)


Loader = ArrayLoader | DataLoader | BatchSource


def as_batches(
    data: Any,
    batch_size: int = 32,
    shuffle: bool = False,
    seed: int | None = None,
    epoch: int = 0,
) -> Loader:
    """A loader for whatever holds the data.

    `data`: (x, y), (x, y, weights) or x as arrays or tensors, an ImageFolder, a torch Dataset, a
    DataLoader or ArrayLoader, which is taken as it is, its own batch size too, or a generator (or
    a function that makes one) of batches. An IterableDataset has an order of its own.

    `shuffle`, `seed` (None: torch's generator says), `epoch` (0: the number of the first): the order.

    >>> len(as_batches(([[0.0], [1.0], [2.0]], [0, 1, 2]), batch_size=2))
    2
    """
    if isinstance(data, (ArrayLoader, DataLoader, BatchSource)):
        return data
    if isinstance(data, ImageFolder):
        data = (data.images, data.labels)
    if isinstance(data, TensorDataset) and len(data.tensors) == 2:
        data = data.tensors
    if isinstance(data, IterableDataset):
        return DataLoader(data, batch_size)
    if isinstance(data, Dataset):
        if shuffle and seed is not None:
            order = SeededOrder(len(data), seed, epoch)  # type: ignore[arg-type]
            return DataLoader(data, batch_size, sampler=order)
        return DataLoader(data, batch_size, shuffle=shuffle)
    if isinstance(data, tuple):
        if not 2 <= len(data) <= 3:
            raise ValueError(
                "data must be a pair (images, labels), or (images, labels, weights), got a tuple of "
                f"{len(data)}"
            )
        x, y, *weights = data
        loader = ArrayLoader(
            x, y, batch_size, shuffle, seed, weights=weights[0] if weights else None
        )
        loader.epoch = epoch
        return loader
    if callable(data) or (hasattr(data, "__iter__") and not hasattr(data, "__len__")):
        return BatchSource(data)
    if isinstance(data, dict):
        raise TypeError(
            "data must be arrays (x, y), a torch Dataset or a DataLoader, got "
            f"{type(data).__name__}"
        )
    loader = ArrayLoader(data, batch_size=batch_size, shuffle=shuffle, seed=seed)
    loader.epoch = epoch
    return loader
