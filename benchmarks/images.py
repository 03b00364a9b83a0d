"""Fashion-MNIST for workers that do not have pyconvopt: one file of plain arrays."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np


class Data(NamedTuple):
    """(images, labels) for training and test; images (N, 28, 28, 1) float32 in 0 … 1."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def store(path: Path, samples: int | None) -> None:
    """Write the set, or its first `samples` training images, for `load`."""
    from pyconvopt.data import fashion_mnist

    (x, y), (x_test, y_test) = fashion_mnist()
    np.savez(path, x=x[:samples], y=y[:samples], x_test=x_test, y_test=y_test)


def scaled(images: np.ndarray) -> np.ndarray:
    """Bytes as (N, 28, 28, 1) float32 in 0 … 1."""
    return images.reshape(-1, 28, 28, 1).astype(np.float32) / np.float32(255)


def load(path: str) -> Data:
    with np.load(path) as arrays:
        return Data(
            (scaled(arrays["x"]), arrays["y"].astype(np.int64)),
            (scaled(arrays["x_test"]), arrays["y_test"].astype(np.int64)),
        )
