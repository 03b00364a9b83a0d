"""Data sets as arrays, and batches from arrays without per-sample Python."""

from pyconvopt.data import augment
from pyconvopt.data.cifar import cifar10, cifar100
from pyconvopt.data.datasets import fashion_mnist, folders, mnist
from pyconvopt.data.image_folder import ImageFolder
from pyconvopt.data.loader import ArrayLoader, BatchSource, as_batches
from pyconvopt.data.rows import MappedArray, Rows
from pyconvopt.data.sources import CLASS_NAMES, SETS, load, load_named

__all__ = [
    "CLASS_NAMES",
    "SETS",
    "ArrayLoader",
    "BatchSource",
    "ImageFolder",
    "MappedArray",
    "Rows",
    "as_batches",
    "augment",
    "cifar10",
    "cifar100",
    "fashion_mnist",
    "folders",
    "load",
    "load_named",
    "mnist",
]
