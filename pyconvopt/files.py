"""Files that are whole or not there: written beside their place, brought to disk, then renamed."""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PART = ".part"


def write_whole(path: str | Path, content: bytes | str) -> None:
    """Write a file so that, whatever happens, the old one or the new one is there whole.

    Folders on the way are made. What is no file (a device, a pipe) is written to as it is; of a
    link, what it leads to is written.

    Errors: OSError that names the file; what was there before is then still there.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    if path.exists() and not path.is_file():
        with naming(path):
            path.write_bytes(data)
        return
    place = Path(os.path.realpath(path))
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = part_beside(place)
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, place)
        sync_folder(place.parent)
    except OSError as error:
        # The caller's file, which the system's message need not name, not the one beside it.
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with suppress(OSError):  # what went wrong before is what counts
            beside.unlink(missing_ok=True)


def part_beside(path: Path) -> Path:
    """Where a file is written before it gets its name: no other thread writes there.

    It begins as that name does; the rest of a long one, beside which no more would fit, is a checksum.
    """
    start, checksum = path.name[:24], zlib.crc32(os.fsencode(path.name))
    writer = f"{os.getpid()}-{threading.get_native_id()}"
    return path.with_name(f"{start}.{checksum:08x}-{writer}{PART}")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Within, an OSError that names no file, as of a full disk, names this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to disk, so that a rename outlives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
