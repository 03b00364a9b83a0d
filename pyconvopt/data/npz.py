"""The arrays of an .npz file: read whole, or mapped where they lie in the file unpacked.

An .npz file is a zip archive of .npy files. `numpy.savez` stores them as they are: the bytes of an array
lie in a row behind its member's head, and can be mapped as those of a .npy file of its own are, however
many they are. `numpy.savez_compressed` packs them; such arrays can only be read whole. What is mapped is
not read, so the archive's checksums are not looked at. Nothing in a file is run.

Source: PKWARE, ".ZIP File Format Specification" (APPNOTE.TXT), 4.3.7; numpy, `numpy.lib.format`.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

LOCAL_HEAD = struct.Struct(
    "<4s22xHH"
)  # signature, then the lengths of the name and the extra field
SIGNATURE = b"PK\x03\x04"
# What NumPy lets through of Python's parser when the head of an array is damaged.
BAD_HEAD = (ValueError, EOFError, TypeError, OverflowError, SyntaxError, TokenError, RecursionError)
UNREADABLE = (*BAD_HEAD, OSError, RuntimeError, zipfile.BadZipFile, zlib.error)
ENCRYPTED = 1  # a flag of a member


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, in memory.

    Errors: ValueError for a file that is none.
    """
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise ValueError("it is one array, a .npy file")
        with file:
            return {name: file[name] for name in file.files}
    except UNREADABLE as error:
        raise ValueError(f"{path} is no .npz file of numbers: {error}") from None


def mapped_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, mapped for reading.

    Errors: ValueError for a file that is none, or whose arrays are packed.
    """
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            members = [each for each in archive.infolist() if each.filename.endswith(".npy")]
            return {each.filename.removesuffix(".npy"): mapped(file, each) for each in members}
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be mapped: {error}") from None


def mapped(file: BinaryIO, member: zipfile.ZipInfo) -> np.ndarray:
    """One array of an open archive, mapped."""
    name = member.filename
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & ENCRYPTED:
        raise ValueError(
            f"{name} is packed, which can only be read whole: write it with numpy.savez, or as a "
            ".npy file of its own"
        )
    file.seek(member.header_offset)
    head = file.read(LOCAL_HEAD.size)
    if len(head) < LOCAL_HEAD.size or not head.startswith(SIGNATURE):
        raise ValueError(f"there is no {name} where the archive's directory says")
    _, *lengths = LOCAL_HEAD.unpack(head)
    begin = file.seek(sum(lengths), 1)
    version = npy.read_magic(file)
    if version not in READERS:
        raise ValueError(
            f"{name} is of format {version}, wanted one of {', '.join(map(str, READERS))}"
        )
    try:
        shape, is_fortran, dtype = READERS[version](file)
    except MemoryError:  # of Python's parser
        raise ValueError(f"{name} has a head that cannot be parsed") from None
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects, wanted numbers")
    offset = file.tell()
    wanted, got = (
        int(np.prod(shape, dtype=object)) * dtype.itemsize,
        member.file_size - (offset - begin),
    )
    if wanted != got:
        raise ValueError(f"{name} has {got} bytes of numbers, its head speaks of {wanted}")
    return np.memmap(file, dtype, "r", offset, shape, "F" if is_fortran else "C")


READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
