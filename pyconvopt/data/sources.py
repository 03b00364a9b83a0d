"""Where images come from by a name: a known set, a folder of pictures, .npz or .npy files.

fashion-mnist                a set of `SETS`
photos                       photos/train/cat/1.jpg, photos/test/cat/7.jpg (or val, validation)
photos                       photos/cat/1.jpg: a share of each class is held out for testing
digits.npz                   x_train, y_train, x_test, y_test, as Keras' files have them
digits.npz                   x, y: a share of each class is held out for testing; read whole, or
                             with in_memory=False mapped, if numpy.savez wrote it
digits                       digits/x_train.npy, digits/y_train.npy ...: a folder of .npy files with
                             the names of either kind; the images stay on disk
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyconvopt import registry
from pyconvopt.data import checks, cifar, npz
from pyconvopt.data.datasets import SOURCES, Arrays, fashion_mnist, mnist
from pyconvopt.data.image_folder import ImageFolder
from pyconvopt.data.rows import MappedArray, mapped
from pyconvopt.data.split import divided

SETS: dict[str, Callable[[], Arrays]] = {
    "fashion-mnist": fashion_mnist,
    "mnist": mnist,
    "cifar10": cifar.cifar10,
    "cifar100": cifar.cifar100,
}

CLASS_NAMES: dict[str, tuple[str, ...]] = {
    **{name: source.class_names for name, source in SOURCES.items()},
    **cifar.CLASS_NAMES,
}

TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "val", "validation")
NPZ_NAMES = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
)
NPZ_UNDIVIDED = (("x", "y"), ("images", "labels"))
NPY_DIVIDED, NPY_UNDIVIDED = (
    [f"{each}.npy" for each in names[0]] for names in (NPZ_NAMES, NPZ_UNDIVIDED)
)


def is_path(name: str) -> bool:
    """Whether a data set's name is a path: of an array file, or of a folder that is there."""
    return name.endswith((".npz", ".npy")) or Path(name).is_dir()


def is_known(name: str) -> bool:
    """Whether a name is a set's; a folder of that name has to be written as ./name."""
    return registry.spelling(name) in map(registry.spelling, SETS)


def located(name: str) -> str:
    """A data set's name, or the whole path of a folder or file, wherever one goes from here."""
    return str(Path(name).resolve()) if not is_known(name) and is_path(name) else name


def load(
    name: str | Path,
    image_size: Sequence[int] | None = None,
    test_share: float = 0.2,
    damaged: str = "error",
    in_memory: bool = True,
) -> Arrays:
    """(train images, train labels), (test images, test labels) by name or path.

    Args: name (a set of `SETS`, a folder of pictures or of .npy files, an .npz file), image_size
    (None) and damaged ('error') for pictures, see `ImageFolder`, test_share (0.2: what is held out
    of undivided data, evenly of each class and always the same samples), in_memory (True; False:
    pictures are decoded batch by batch, and the images of an .npz file that `numpy.savez` wrote stay
    on disk; what `numpy.savez_compressed` wrote can only be read whole).

    Images are (N, H, W) or (N, H, W, C), uint8 where they come as bytes; labels (N,). Images of
    .npy files, and what is not in memory, are `data.Rows`.

    Errors: ValueError for an unknown name, a damaged file, or a folder that is sorted otherwise;
    OSError if a set cannot be fetched.
    """
    return load_named(name, image_size, test_share, damaged, in_memory)[0]


def load_named(
    name: str | Path,
    image_size: Sequence[int] | None = None,
    test_share: float = 0.2,
    damaged: str = "error",
    in_memory: bool = True,
) -> tuple[Arrays, tuple[str, ...] | None]:
    """What `load` gives, and the names of the classes if they are known."""
    text = str(name)
    if is_known(text):
        chosen = registry.find("data set", {each: each for each in SETS}, text)
        return SETS[chosen](), CLASS_NAMES[chosen]
    if text.endswith(".npz"):
        return read_archive(Path(text), test_share, in_memory), None
    if any(Path(text).glob("*.npy")):
        return read_mapped(Path(text), test_share), None
    if Path(text).is_dir():
        return read_folder(Path(text), image_size, test_share, damaged, in_memory)
    if text.endswith(".npy"):
        raise ValueError(
            f"{text} is one array: give a folder that holds {' and '.join(NPY_UNDIVIDED)}, or "
            f"{', '.join(NPY_DIVIDED)}"
        )
    if Path(text).exists():
        raise ValueError(f"{text} is neither a folder of pictures nor an .npz file")
    raise registry.unknown("data set", text, SETS)


def read_folder(
    path: Path, image_size: Sequence[int] | None, test_share: float, damaged: str, in_memory: bool
) -> tuple[Any, tuple[str, ...]]:
    """The arrays, or the rows, of a folder of pictures, and its classes."""

    def pair(folder: ImageFolder) -> Any:
        return folder.arrays() if in_memory else (folder.images, folder.labels)

    halves = [
        next((path / name for name in names if (path / name).is_dir()), None)
        for names in (TRAIN_FOLDERS, TEST_FOLDERS)
    ]
    if halves[0] is None or halves[1] is None:
        require_no_half(path, halves[0] or halves[1])
        whole = ImageFolder(path, image_size, damaged=damaged)
        images, labels = pair(whole)
        return divided(images, labels, test_share), tuple(whole.classes)
    train = ImageFolder(halves[0], image_size, damaged=damaged)
    # The test pictures take the training ones' size and colours.
    test = ImageFolder(
        halves[1],
        (train.form.height, train.form.width),
        color_mode=train.form.color_mode,
        damaged=damaged,
    )
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise ValueError(f"{halves[0]} and {halves[1]} differ in their classes: {', '.join(odd)}")
    return (pair(train), pair(test)), tuple(train.classes)


def require_no_half(path: Path, half: Path | None) -> None:
    """Refuse a folder that holds one half of a set alone: it would be the only class."""
    if half is not None and [each for each in path.iterdir() if each.is_dir()] == [half]:
        others = TEST_FOLDERS if half.name in TRAIN_FOLDERS else TRAIN_FOLDERS
        raise ValueError(
            f"{path} holds a folder {half.name}, but none named {' or '.join(others)}; give {half} "
            "to have a share of it held out"
        )


def read_archive(path: Path, test_share: float, in_memory: bool) -> Any:
    """The arrays of an .npz file: whole, or labels in memory and images on disk."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    return arranged(
        npz.read_npz(path) if in_memory else on_disk(npz.mapped_npz(path)), path, test_share
    )


def read_mapped(path: Path, test_share: float) -> Any:
    """The arrays of a folder of .npy files: labels in memory, images on disk.

    Errors: ValueError for a file that is none, or other files.
    """
    arrays = {file.stem: mapped(file) for file in sorted(path.glob("*.npy"))}
    return arranged(on_disk(arrays), path, test_share)


def on_disk(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Mapped arrays by Keras' names: the labels read, the images left where they are."""
    labels = {names[place] for names in (*NPZ_NAMES, *NPZ_UNDIVIDED) for place in (1, -1)}
    return {
        name: np.array(array) if name in labels else MappedArray(array)
        for name, array in arrays.items()
    }


def arranged(arrays: Mapping[str, Any], path: Path, test_share: float) -> Any:
    """Training and test data of arrays by Keras' names."""
    for names in NPZ_NAMES:
        if all(name in arrays for name in names):
            a, b, c, d = (arrays[name] for name in names)
            return (a, flat(b, path)), (c, flat(d, path))
    for x, y in NPZ_UNDIVIDED:
        if x in arrays and y in arrays:
            images, labels = arrays[x], arrays[y]
            return divided(images, flat(labels, path), test_share)
    raise ValueError(
        f"{path} holds {', '.join(arrays) or 'nothing'}; wanted {', '.join(NPZ_NAMES[0])}, or "
        f"{' and '.join(NPZ_UNDIVIDED[0])}"
    )


def flat(labels: np.ndarray, path: Path) -> np.ndarray:
    """Labels (N,) from (N,) or (N, 1), as Keras' files have them.

    Errors: ValueError for labels that are no numbers.
    """
    if labels.dtype.kind not in checks.NUMBERS:
        raise ValueError(
            f"{path} holds labels of dtype {labels.dtype}; wanted class numbers, which "
            "np.unique(labels, return_inverse=True)[1] makes of names"
        )
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
