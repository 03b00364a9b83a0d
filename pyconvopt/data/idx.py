"""The IDX file format of the MNIST family, gzipped or plain.

Layout, big-endian: two zero bytes, one byte for the element type (8: unsigned byte), one for the
number of axes, four bytes for each axis' size, then the elements, last axis fastest.
Source: LeCun, Cortes and Burges, "The MNIST database", file format section.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

UNSIGNED_BYTE = 0x08


def read_bytes(path: Path) -> bytes:
    """A file's content, unpacked if it is gzipped; ValueError if it does not unpack."""
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            return file.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{path} is damaged: got {path.stat().st_size} bytes that do not unpack ({error}), "
            "wanted a whole gzip file; delete it to have it fetched again"
        ) from None


def read_idx(path: str | Path, axes: int) -> np.ndarray:
    """The unsigned bytes of an IDX file with that many axes (3: images, 1: labels).

    Errors: ValueError naming the file, what it holds and what was wanted: wrong magic number,
    cut short, too long, not gzip.
    """
    path = Path(path)
    content = read_bytes(path)
    header = 4 + 4 * axes
    wanted_magic = UNSIGNED_BYTE << 8 | axes
    magic = int.from_bytes(content[:4], "big")
    if len(content) < header or magic != wanted_magic:
        raise ValueError(
            f"{path} is not the IDX file it should be: got magic number {magic:#010x} in "
            f"{len(content)} bytes, wanted {wanted_magic:#010x} ({axes} axes of unsigned bytes)"
        )
    shape = struct.unpack(f">{axes}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise ValueError(
            f"{path} is damaged: got {len(content) - header} bytes of data, wanted "
            f"{math.prod(shape)} for the shape {'×'.join(map(str, shape))} in its header"
        )
    # A copy, because torch wants memory it may write to.
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()
