"""Data sets as arrays, and batches from arrays without per-sample Python."""

from pyconvopt.data import augment
from pyconvopt.data.datasets import CLASS_NAMES, fashion_mnist, folders, load, mnist
from pyconvopt.data.loader import ArrayLoader, BatchSource, as_batches

__all__ = [
    "CLASS_NAMES",
    "ArrayLoader",
    "BatchSource",
    "as_batches",
    "augment",
    "fashion_mnist",
    "folders",
    "load",
    "mnist",
]
