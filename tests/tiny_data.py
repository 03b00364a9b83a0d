"""A data set in the MNIST family's files, small enough to train on in a second."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

from pyconvopt.data import datasets


def idx_bytes(array: np.ndarray) -> bytes:
    """An array of unsigned bytes as an IDX file."""
    header = struct.pack(f">I{array.ndim}I", 0x0800 | array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_tiny_set(base: Path, train: int = 20, test: int = 8) -> list[np.ndarray]:
    """Four gzipped files in `base`/fashion-mnist; gives back what they hold.

    The label can be read off the image: its rows 2·label ... 2·label + 3 are bright.
    """
    generator = np.random.default_rng(0)
    folder = base / "fashion-mnist"
    folder.mkdir()
    arrays = []
    for samples in (train, test):
        labels = generator.integers(0, 10, samples, dtype=np.uint8)
        images = generator.integers(0, 60, (samples, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label : 2 * label + 4] += 180
        arrays += [images, labels]
    for file, array in zip(datasets.SOURCES["fashion-mnist"].files, arrays, strict=True):
        (folder / file.name).write_bytes(gzip.compress(idx_bytes(array)))
    return arrays
