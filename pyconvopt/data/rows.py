"""Samples that stay where they are until a batch asks for them: on disk, packed, or too many.

`ArrayLoader` takes such rows in place of a tensor. They have the few members of a tensor that it
and the augmentation use; `index_select` reads what it is asked for, and nothing more is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor
from typing_extensions import override

from pyconvopt.data.npz import BAD_HEAD


class Rows:
    """Base class: samples of one shape, read by their numbers.

    A subclass sets `shape` (samples first) and `dtype` (torch's), and gives `read`.
    """

    shape: torch.Size
    dtype: torch.dtype

    def read(self, numbers: Sequence[int]) -> Tensor:
        """The samples of those numbers, in that order."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.shape[0]

    def dim(self) -> int:
        """The number of axes, the samples' one counted."""
        return len(self.shape)

    def numel(self) -> int:
        """The number of values in all samples."""
        return self.shape.numel()

    def is_floating_point(self) -> bool:
        """Whether the values are floats."""
        return self.dtype.is_floating_point

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """The samples of those numbers; dim is 0, the samples' axis."""
        if dim != 0:
            raise ValueError(f"rows are chosen along axis 0, got {dim}")
        return self.read(index.tolist())

    def __getitem__(self, rows: int | slice) -> Tensor:
        if isinstance(rows, slice):
            return self.read(range(*rows.indices(len(self))))
        if not -len(self) <= rows < len(self):
            raise IndexError(f"sample {rows} of {len(self)}")
        return self.read([rows % len(self)])[0]


class Selected(Rows):
    """Some of other rows, by their numbers; nothing is read for it."""

    def __init__(self, rows: Rows, numbers: Sequence[int]) -> None:
        self.rows, self.numbers = rows, numbers
        self.shape = torch.Size((len(numbers), *rows.shape[1:]))
        self.dtype = rows.dtype

    @override
    def read(self, numbers: Sequence[int]) -> Tensor:
        # A range of a range is one, which may be read in one go.
        if isinstance(numbers, range) and numbers.step > 0:
            return self.rows.read(self.numbers[numbers.start : numbers.stop : numbers.step])
        return self.rows.read([self.numbers[number] for number in numbers])


class Pixels(Rows):
    """Images (N, H, W) or (N, H, W, C) of other rows as (N, H, W, C), divided by `scale` when read.

    At a scale of 1 they keep their type.
    """

    def __init__(self, rows: Rows, scale: float = 1.0) -> None:
        self.rows, self.scale = rows, scale
        self.shape = rows.shape if rows.dim() == 4 else torch.Size((*rows.shape, 1))
        self.dtype = rows.dtype if scale == 1 else torch.float32

    @override
    def read(self, numbers: Sequence[int]) -> Tensor:
        pixels = self.rows.read(numbers).reshape(len(numbers), *self.shape[1:])
        return pixels if self.scale == 1 else pixels.to(torch.float32) / self.scale


class MappedArray(Rows):
    """An array in a file, mapped into memory: a batch reads its own rows from the disk.

    Args: array, as `numpy.load(path, mmap_mode='r')` gives it, or the path of a .npy file.

    Errors: TypeError for anything but numbers, ValueError for a file that is no .npy array.

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, 'images.npy')
    ...     np.save(path, np.arange(12).reshape(6, 2))
    ...     MappedArray(path).read([4, 0])
    tensor([[8, 9],
            [0, 1]])
    """

    def __init__(self, array: np.ndarray | str | Path) -> None:
        self.array = array if isinstance(array, np.ndarray) else mapped(array)
        if self.array.dtype.kind not in "biuf":
            raise TypeError(f"the array holds {self.array.dtype}; wanted numbers")
        if self.array.ndim == 0:
            raise ValueError("the array is a single number; wanted one entry a sample")
        self.shape = torch.Size(self.array.shape)
        self.dtype = self.tensor(self.array[:0]).dtype

    @staticmethod
    def tensor(part: np.ndarray) -> Tensor:
        """Rows in memory as a tensor."""
        from pyconvopt.data.checks import from_numpy

        return from_numpy(part)

    @override
    def read(self, numbers: Sequence[int]) -> Tensor:
        # A range is a slice, which is read in one go.
        if isinstance(numbers, range) and numbers.step > 0:
            return self.tensor(np.array(self.array[numbers.start : numbers.stop : numbers.step]))
        return self.tensor(self.array[np.asarray(numbers, np.intp)])


def mapped(path: str | Path) -> np.ndarray:
    """The array of a .npy file, mapped for reading."""
    if str(path).endswith(".npz"):
        raise ValueError(f"{path} holds several packed arrays: read it with data.load")
    try:
        return npy.open_memmap(path, mode="r")
    except (*BAD_HEAD, MemoryError) as error:
        raise ValueError(f"{path} is no .npy file of numbers: {error}") from None


def is_mapped(values: Any) -> bool:
    """Whether an array's values lie in a file, as those of slices of a `numpy.memmap` do too."""
    while isinstance(values, np.ndarray):
        values = values.base
    return isinstance(values, mmap)
