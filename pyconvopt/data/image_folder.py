"""A folder of pictures, one folder a class, as arrays or as rows that are decoded when needed.

    photos/cat/1.jpg, photos/cat/2.png, photos/dog/1.jpg ...

Only the headers are read at first: they tell sizes and colours. Batches are decoded by several
threads, Pillow's decoders run beside one another.
"""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from pyconvopt import registry
from pyconvopt.data.checks import whole
from pyconvopt.data.rows import Rows
from pyconvopt.extras import require

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".gif")
COLOR_MODES = {"rgb": ("RGB", 3), "grayscale": ("L", 1)}
INTERPOLATIONS = {"nearest": "NEAREST", "bilinear": "BILINEAR", "bicubic": "BICUBIC"}
DAMAGED = {"error": "error", "skip": "skip"}
GREY_MODES = ("1", "L", "LA")

# What Pillow's plug-ins raise for damaged files: not only what it documents.
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, RuntimeError, struct.error),
    *(TypeError, AttributeError, LookupError, ArithmeticError),
)

Result = TypeVar("Result")


class Header(NamedTuple):
    """What the beginning of a picture tells: its size, and whether it is grey."""

    height: int
    width: int
    is_grey: bool


class Form(NamedTuple):
    """How pictures become arrays of one shape."""

    height: int
    width: int
    color_mode: str
    crop_to_aspect_ratio: bool = False
    interpolation: str = "bilinear"


class Damage(NamedTuple):
    """A file that cannot be decoded, and why."""

    path: Path
    reason: str


def opened(path: Path) -> Any:
    """A picture as Pillow opens it; ValueError for what it cannot read, or not as bytes."""
    pillow = require("PIL.Image", "reading pictures", "images")
    try:
        picture = pillow.open(path)
    except (*UNREADABLE, pillow.DecompressionBombError) as error:
        raise ValueError(str(error)) from None
    if picture.mode.startswith(("I", "F")):
        raise ValueError(f"its pixels are of Pillow's mode {picture.mode}, wanted 8 bits a channel")
    return picture


def header(path: Path) -> Header:
    """The size and the colours of a picture."""
    with opened(path) as picture:
        return Header(picture.height, picture.width, picture.mode in GREY_MODES)


def decoded(path: Path, form: Form) -> np.ndarray:
    """A picture as uint8 (height, width, channels)."""
    pillow = require("PIL.Image", "reading pictures", "images")
    mode, channels = COLOR_MODES[form.color_mode]
    with opened(path) as picture:
        try:
            pixels = picture.convert(mode)
        except UNREADABLE as error:
            raise ValueError(str(error)) from None
    if (pixels.height, pixels.width) != (form.height, form.width):
        method = getattr(pillow.Resampling, INTERPOLATIONS[form.interpolation])
        box = centre(pixels.height, pixels.width, form) if form.crop_to_aspect_ratio else None
        pixels = pixels.resize((form.width, form.height), method, box)
    return np.asarray(pixels).reshape(form.height, form.width, channels)


def centre(height: int, width: int, form: Form) -> tuple[float, float, float, float]:
    """The largest window in the middle with the proportions wanted: left, top, right, bottom."""
    across = min(width, height * form.width / form.height)
    down = min(height, width * form.height / form.width)
    left, top = (width - across) / 2, (height - down) / 2
    return left, top, left + across, top + down


def tried(work: Callable[[Path], Result], paths: Iterable[Path], workers: int) -> list[Any]:
    """The results for all paths, in order, from several threads; a `Damage` where it failed."""

    def one(path: Path) -> Result | Damage:
        try:
            return work(path)
        except ValueError as error:
            return Damage(path, " ".join(str(error).split()))

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, paths))


class Pictures(Rows):
    """The pictures of some files as uint8 rows (N, height, width, channels), decoded when read."""

    dtype = torch.uint8

    def __init__(self, paths: Sequence[Path], form: Form, workers: int) -> None:
        self.paths, self.form, self.workers = list(paths), form, workers
        channels = COLOR_MODES[form.color_mode][1]
        self.shape = torch.Size((len(paths), form.height, form.width, channels))

    def array(self, numbers: Iterable[int]) -> np.ndarray:
        """The pictures of those numbers; ValueError naming a file that cannot be decoded."""
        paths = [self.paths[number] for number in numbers]
        pixels = np.empty((len(paths), *self.shape[1:]), np.uint8)

        def put(place: int) -> None:
            try:
                pixels[place] = decoded(paths[place], self.form)
            except ValueError as error:
                raise ValueError(f"{paths[place]} is damaged: {error}") from None

        with ThreadPoolExecutor(self.workers) as pool:
            list(pool.map(put, range(len(paths))))
        return pixels

    @override
    def read(self, numbers: Sequence[int]) -> Tensor:
        return torch.from_numpy(self.array(numbers))


class ImageFolder:
    """Pictures sorted into folders, one a class; classes are numbered by the folders' names.

    Args:
        path: the folder that holds the classes' folders; pictures may lie deeper in them.
        image_size: None (all pictures must be of one size), or (height, width) they are resized to.
        color_mode: 'rgb', 'grayscale', or None: grey if every picture is.
        crop_to_aspect_ratio: False (resizing stretches), or True: the largest window in the middle
            that has the right proportions is resized.
        interpolation: 'bilinear', 'bicubic' or 'nearest'.
        damaged: 'error' (a file that cannot be decoded is one), or 'skip': every file is decoded
            once now, and a warning says which are left out; `skipped` lists them.
        workers: threads that decode (None: one a processor, at most 8).

    `images` are rows for `ArrayLoader`, (N, height, width, channels) of uint8; `labels` an int64
    array; `classes` the names; `paths` the files. A `Trainer` takes the folder as data.

    Errors: ValueError for a folder without pictures, files that cannot be read, or unequal sizes;
    ImportError naming the extra if Pillow is missing.

    >>> photos = ImageFolder('photos', image_size=(224, 224), damaged='skip')  # doctest: +SKIP
    >>> model.fit(photos.loader(batch_size=32, shuffle=True))                  # doctest: +SKIP
    """

    def __init__(
        self,
        path: str | Path,
        image_size: Sequence[int] | None = None,
        color_mode: str | None = None,
        crop_to_aspect_ratio: bool = False,
        interpolation: str = "bilinear",
        damaged: str = "error",
        workers: int | None = None,
    ) -> None:
        require("PIL.Image", "reading pictures", "images")
        skips = registry.find("damaged", DAMAGED, damaged) == "skip"
        names = {name: name for name in INTERPOLATIONS}
        interpolation = registry.find("interpolation", names, interpolation)
        if color_mode is not None:
            color_mode = registry.find(
                "color_mode", {name: name for name in COLOR_MODES}, color_mode
            )
        self.path = Path(path)
        self.workers = workers or min(8, os.cpu_count() or 1)
        self.classes, self.paths, labels = listed(self.path)
        headers = tried(header, self.paths, self.workers)
        sound = [each for each in headers if not isinstance(each, Damage)]
        if not skips:
            refuse([each for each in headers if isinstance(each, Damage)])
        elif not sound:
            raise ValueError(f"{self.path} holds no picture that can be read")
        if color_mode is None:
            color_mode = "grayscale" if all(each.is_grey for each in sound) else "rgb"
        height, width = self.common_size(headers) if image_size is None else checked(image_size)
        self.form = Form(height, width, color_mode, crop_to_aspect_ratio, interpolation)
        self.skipped: list[Damage] = []
        if skips:
            labels = self.skip_damaged(labels)
        self.labels = np.asarray(labels, np.int64)
        self.images = Pictures(self.paths, self.form, self.workers)

    def common_size(self, headers: Sequence[Any]) -> tuple[int, int]:
        """The height and width of all pictures; ValueError if they are not of one size."""
        sized = [
            (path, each)
            for path, each in zip(self.paths, headers, strict=True)
            if not isinstance(each, Damage)
        ]
        first_path, first = sized[0]
        for path, each in sized:
            if each[:2] != first[:2]:
                raise ValueError(
                    f"the pictures have unequal sizes: {first_path} is {first.height}×"
                    f"{first.width}, {path} is {each.height}×{each.width}; give image_size="
                    "(height, width) to have them resized"
                )
        return first.height, first.width

    def skip_damaged(self, labels: list[int]) -> list[int]:
        """Leave out what cannot be decoded, with a warning; the labels of the rest."""

        def probe(path: Path) -> None:
            decoded(path, self.form)

        found = tried(probe, self.paths, self.workers)
        self.skipped = [each for each in found if isinstance(each, Damage)]
        sound = [number for number, each in enumerate(found) if not isinstance(each, Damage)]
        if not sound:
            raise ValueError(f"{self.path} holds no picture that can be read")
        if self.skipped:
            first = self.skipped[0]
            warnings.warn(
                f"left out {len(self.skipped)} of {len(found)} pictures that cannot be read, the "
                f"first {first.path}: {first.reason}",
                stacklevel=3,
            )
        self.paths = [self.paths[number] for number in sound]
        return [labels[number] for number in sound]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return self.images[number], int(self.labels[number])

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """All pictures decoded, uint8 (N, height, width, channels), and their labels."""
        return self.images.array(range(len(self))), self.labels

    def loader(self, batch_size: int = 32, shuffle: bool = False, **options: Any) -> Any:
        """An `ArrayLoader` that decodes each batch; `options` are its own."""
        from pyconvopt.data.loader import ArrayLoader

        return ArrayLoader(self.images, self.labels, batch_size, shuffle, **options)


def listed(path: Path) -> tuple[list[str], list[Path], list[int]]:
    """The classes, the files and the files' labels; ValueError where there are none."""
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}")
    classes = sorted(each.name for each in path.iterdir() if each.is_dir())
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = (file for file in (path / name).rglob("*") if file.suffix.lower() in ENDINGS)
        found = sorted(file for file in files if file.is_file())
        if not found:
            raise ValueError(f"{path / name} holds no picture ({', '.join(ENDINGS)})")
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise ValueError(f"{path} holds no pictures in folders, one folder a class")
    return classes, paths, labels


def checked(image_size: Sequence[int]) -> tuple[int, int]:
    """A height and a width."""
    try:
        height, width = image_size
        return whole("height", height), whole("width", width)
    except (TypeError, ValueError):
        raise ValueError(
            f"image_size must be (height, width) of whole numbers, got {image_size!r}"
        ) from None


def refuse(damages: Sequence[Damage]) -> None:
    """The error for files that cannot be read, if there are any."""
    if damages:
        more = f" (and {len(damages) - 1} more)" if len(damages) > 1 else ""
        raise ValueError(
            f"{damages[0].path} cannot be read: {damages[0].reason}{more}; damaged='skip' leaves "
            "such files out"
        )
