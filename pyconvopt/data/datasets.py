"""Known image sets as NumPy arrays, fetched once.

A file is looked for in $PYCONVOPT_DATA/<set>, then where the system keeps it (Debian's package
dataset-fashion-mnist), then in the user's cache. If it is nowhere it is downloaded, into
$PYCONVOPT_DATA/<set> where that variable is set and else into the cache: written beside its
place, checked against its SHA-256, then renamed, so that a cut connection leaves nothing that
looks whole.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pyconvopt.data.idx import read_idx
from pyconvopt.files import part_beside

Arrays = tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class RemoteFile(NamedTuple):
    """A file of a set: its name and the SHA-256 of the gzipped file as it is published."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Source:
    """Where a set comes from, and its files: train images and labels, test images and labels."""

    url: str
    files: tuple[RemoteFile, RemoteFile, RemoteFile, RemoteFile]
    class_names: tuple[str, ...]


SOURCES: dict[str, Source] = {
    "fashion-mnist": Source(
        "https://fashion-mnist.s3.eu-central-1.amazonaws.com",
        (
            RemoteFile(
                "train-images-idx3-ubyte.gz",
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            RemoteFile(
                "train-labels-idx1-ubyte.gz",
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
            RemoteFile(
                "t10k-images-idx3-ubyte.gz",
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            RemoteFile(
                "t10k-labels-idx1-ubyte.gz",
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ),
        (
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
    ),
    "mnist": Source(
        "https://storage.googleapis.com/cvdf-datasets/mnist",
        (
            RemoteFile(
                "train-images-idx3-ubyte.gz",
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            RemoteFile(
                "train-labels-idx1-ubyte.gz",
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            RemoteFile(
                "t10k-images-idx3-ubyte.gz",
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            RemoteFile(
                "t10k-labels-idx1-ubyte.gz",
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ),
        tuple("0123456789"),
    ),
}

DOWNLOAD_ERRORS = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
)
SYSTEM_FOLDER = Path("/usr/share/datasets")


def cache_folder() -> Path:
    """The user's cache: $XDG_CACHE_HOME/pyconvopt, else ~/.cache/pyconvopt."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pyconvopt"


def folders(dataset: str) -> list[Path]:
    """Where a set's files may lie, first choice first."""
    chosen = os.environ.get("PYCONVOPT_DATA")
    bases = [Path(chosen)] if chosen else []
    return [base / dataset for base in (*bases, SYSTEM_FOLDER, cache_folder())]


def fetch(url: str, path: Path, sha256: str) -> None:
    """Download a file to `path` whole and right, or leave nothing there.

    Errors: OSError if it cannot be fetched or written, ValueError if its checksum is wrong.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = part_beside(path)
    digest, done = hashlib.sha256(), 0
    show = sys.stderr.isatty()
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, open(beside, "wb") as file:
            size = int(answer.headers.get("Content-Length") or 0)
            while block := answer.read(1 << 20):
                file.write(block)
                digest.update(block)
                done += len(block)
                if show:
                    of = f" of {size / 1e6:.1f}" if size else ""
                    print(f"\r{path.name}: {done / 1e6:.1f}{of} MB", end="", file=sys.stderr)
        if show:
            print(file=sys.stderr)
        if digest.hexdigest() != sha256:
            raise ValueError(
                f"{url} is not the file it should be: got SHA-256 {digest.hexdigest()} "
                f"({done} bytes), wanted {sha256}"
            )
        beside.replace(path)
    except DOWNLOAD_ERRORS as error:
        reason = getattr(error, "reason", None) or error
        raise OSError(
            f"cannot download {url}: {reason}; put the file into {path.parent} or set "
            "PYCONVOPT_DATA to the folder above it"
        ) from None
    finally:
        beside.unlink(missing_ok=True)


def locate(dataset: str, file: RemoteFile) -> Path:
    """The path of a set's file, gzipped or unpacked; downloads it if it is nowhere."""
    places = folders(dataset)
    for folder in places:
        for name in (file.name, file.name.removesuffix(".gz")):
            if (folder / name).is_file():
                return folder / name
    target = (places[0] if os.environ.get("PYCONVOPT_DATA") else places[-1]) / file.name
    fetch(f"{SOURCES[dataset].url}/{file.name}", target, file.sha256)
    return target


def load_idx(dataset: str) -> Arrays:
    """(train images, train labels), (test images, test labels) of a set of IDX files.

    Images are uint8 (N, 28, 28), 0 black and 255 white; labels uint8 (N,).

    Errors: ValueError for a damaged file, OSError if it cannot be fetched.
    """
    arrays = []
    for position, file in enumerate(SOURCES[dataset].files):
        path = locate(dataset, file)
        arrays.append(read_idx(path, axes=1 if position % 2 else 3))
        if position % 2 and len(arrays[-1]) != len(arrays[-2]):
            raise ValueError(
                f"{path} is damaged: got {len(arrays[-1])} labels, wanted {len(arrays[-2])}, one "
                "an image"
            )
    return (arrays[0], arrays[1]), (arrays[2], arrays[3])


def fashion_mnist() -> Arrays:
    """Fashion-MNIST: 60,000 + 10,000 photographs of clothes, 28×28 grey, ten classes.

    Returns (train_images, train_labels), (test_images, test_labels), uint8, as
    keras.datasets.fashion_mnist.load_data() does. `CLASS_NAMES['fashion-mnist']` names the
    classes.

    >>> (train_images, train_labels), _ = fashion_mnist()  # doctest: +SKIP
    >>> train_images.shape                                 # doctest: +SKIP
    (60000, 28, 28)

    Source: Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747.
    """
    return load_idx("fashion-mnist")


def mnist() -> Arrays:
    """MNIST: 60,000 + 10,000 handwritten digits, 28×28 grey, in the form of `fashion_mnist`.

    Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits".
    """
    return load_idx("mnist")
