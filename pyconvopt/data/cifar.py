"""CIFAR-10 and CIFAR-100: 32×32 colour photographs, as their authors publish them.

The binary archive is the one that is fetched. Its records are the label (CIFAR-100: the coarse one,
then the fine one) and 3,072 bytes of pixels: all red ones, all green, all blue, row by row. The
archive for Python, which other programs download, is read as well where it lies; its pickles hold
the same bytes. Either may lie there packed or unpacked.

Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".
"""

from __future__ import annotations

import os
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyconvopt import registry
from pyconvopt.data import plain_pickle
from pyconvopt.data.datasets import Arrays, RemoteFile, fetch, folders

URL = "https://www.cs.toronto.edu/~kriz"
PIXELS = 3 * 32 * 32
LABEL_MODES = {"fine": "fine", "coarse": "coarse"}


@dataclass(frozen=True)
class Archive:
    """One form of a set: the packed file, the folder in it, and the files for both halves."""

    file: RemoteFile
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    pickled: bool = False


ARCHIVES: dict[str, tuple[Archive, Archive]] = {
    "cifar10": (
        Archive(
            RemoteFile(
                "cifar-10-binary.tar.gz",
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
            "cifar-10-batches-bin",
            tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
            ("test_batch.bin",),
        ),
        Archive(
            RemoteFile(
                "cifar-10-python.tar.gz",
                "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            ),
            "cifar-10-batches-py",
            tuple(f"data_batch_{number}" for number in range(1, 6)),
            ("test_batch",),
            pickled=True,
        ),
    ),
    "cifar100": (
        Archive(
            RemoteFile(
                "cifar-100-binary.tar.gz",
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            ),
            "cifar-100-binary",
            ("train.bin",),
            ("test.bin",),
        ),
        Archive(
            RemoteFile(
                "cifar-100-python.tar.gz",
                "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            ),
            "cifar-100-python",
            ("train",),
            ("test",),
            pickled=True,
        ),
    ),
}

NAMES_10 = "airplane automobile bird cat deer dog frog horse ship truck"
NAMES_100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
CLASS_NAMES = {"cifar10": tuple(NAMES_10.split()), "cifar100": tuple(NAMES_100.split())}


def locate(dataset: str) -> tuple[Archive, Path]:
    """A form of the set and where it lies, packed or unpacked; downloaded if it is nowhere."""
    places = folders(dataset)
    for place in places:
        # Other programs put their folder straight into the folder for data.
        for folder in (place, place.parent):
            for archive in ARCHIVES[dataset]:
                for name in (archive.folder, archive.file.name):
                    if (folder / name).exists():
                        return archive, folder / name
    archive = ARCHIVES[dataset][0]
    target = (places[0] if os.environ.get("PYCONVOPT_DATA") else places[-1]) / archive.file.name
    fetch(f"{URL}/{archive.file.name}", target, archive.file.sha256)
    return archive, target


def contents(archive: Archive, path: Path) -> dict[str, bytes]:
    """What the archive's files hold, by name. Nothing is unpacked to disk.

    Errors: ValueError for a file that is missing, or an archive that does not unpack.
    """
    names = (*archive.train, *archive.test)
    try:
        if path.is_dir():
            return {name: (path / name).read_bytes() for name in names}
        found: dict[str, bytes] = {}
        with tarfile.open(path) as packed:
            for member in packed:
                folder, _, name = member.name.rpartition("/")
                # No links: what they lead to may be missing, or themselves.
                if (
                    member.isfile()
                    and folder.removeprefix("./") == archive.folder
                    and name in names
                ):
                    file = packed.extractfile(member)
                    found[name] = file.read() if file else b""
    except FileNotFoundError as error:
        raise ValueError(f"{path} is not whole: there is no {error.filename}") from None
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ValueError(
            f"{path} is damaged: it does not unpack ({error}); delete it to have it fetched again"
        ) from None
    for name in names:
        if name not in found:
            raise ValueError(f"{path} is damaged: there is no {archive.folder}/{name} in it")
    return found


def binary_records(content: bytes, where: str, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N, labels) and pixels (N, 3072) of a binary file."""
    size = labels + PIXELS
    if not content or len(content) % size:
        raise ValueError(
            f"{where} is damaged: got {len(content)} bytes, wanted records of {size} bytes"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    return records[:, :labels], records[:, labels:]


def pickled_records(content: bytes, where: str, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N, labels) and pixels (N, 3072) of a pickled file."""
    keys = ("labels",) if labels == 1 else ("coarse_labels", "fine_labels")
    try:
        table = plain_pickle.read(content)
        pixels = table["data"]
        if not isinstance(pixels, np.ndarray):
            raise TypeError("its images are no array")
        # fromiter takes numbers alone, nothing nested.
        numbers = np.stack([np.fromiter(table[key], np.uint8) for key in keys], axis=1)
    except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        raise ValueError(
            f"{where} is not the pickle it should be: {error}, wanted images and labels"
        ) from None
    if pixels.ndim != 2 or pixels.shape[1] != PIXELS or len(pixels) != len(numbers):
        raise ValueError(
            f"{where} is damaged: got images {pixels.shape} and {len(numbers)} labels, wanted "
            f"(N, {PIXELS}) and as many labels"
        )
    return numbers, pixels


def load(dataset: str, label: int = 0) -> Arrays:
    """The set's arrays; `label` says which of a record's labels are taken."""
    archive, path = locate(dataset)
    files = contents(archive, path)
    records = pickled_records if archive.pickled else binary_records

    def half(names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        labels = 1 if dataset == "cifar10" else 2
        parts = [records(files[name], f"{path}: {name}", labels) for name in names]
        pixels = np.concatenate([pixels for _, pixels in parts]).reshape(-1, 3, 32, 32)
        numbers = np.concatenate([numbers for numbers, _ in parts])[:, label]
        return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), np.ascontiguousarray(numbers)

    return half(archive.train), half(archive.test)


def cifar10() -> Arrays:
    """CIFAR-10: 50,000 + 10,000 photographs of ten kinds of things, 32×32 in colour.

    Returns (train_images, train_labels), (test_images, test_labels): uint8 (N, 32, 32, 3) and
    uint8 (N,). `CLASS_NAMES['cifar10']` names the classes.

    Errors: ValueError for a damaged file, OSError if it cannot be fetched (170 MB).

    >>> (train_images, train_labels), _ = cifar10()  # doctest: +SKIP
    >>> train_images.shape                           # doctest: +SKIP
    (50000, 32, 32, 3)

    Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".
    """
    return load("cifar10")


def cifar100(label_mode: str = "fine") -> Arrays:
    """CIFAR-100: as `cifar10`, of 100 classes ('fine') in 20 groups ('coarse').

    Args: label_mode ('fine'): which labels, by Keras' names.

    Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".
    """
    mode = registry.find("label_mode", LABEL_MODES, label_mode)
    return load("cifar100", label=1 if mode == "fine" else 0)
