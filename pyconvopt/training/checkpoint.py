"""A folder of checkpoints: each one file, whole or not there, the last few of them kept.

A state is nested dicts, lists and tuples of numbers, text and tensors. Its tensors are those of a
safetensors file, the rest is JSON in that file's header: reading it runs no code. The file's name
holds the step and the start of the SHA-256 of its bytes, `step-00000120-9f86d081884c7d65.safetensors`,
so a file that lost a bit is known by its name.

Tensors come back with the strides they had. An optimiser's moments of a channels_last weight would
otherwise meet another kernel, and the run other roundings.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyconvopt.extras import require
from pyconvopt.files import PART, write_whole

HEADER_KEY = "pyconvopt checkpoint"
FORMAT_VERSION = 3
NAME = re.compile(r"step-(\d+)-([0-9a-f]{16})\.safetensors")


def pack(value: Any, tensors: dict[str, Tensor], path: str = "state") -> Any:
    """A state as JSON can hold it, its tensors put aside under their paths.

    Errors: TypeError naming what no checkpoint can hold.

    >>> tensors = {}
    >>> pack({'rates': (0.5, None), 0: torch.ones(2)}, tensors)
    {'dict': [['rates', {'tuple': [0.5, None]}], [0, {'tensor': 'state.0', 'order': [0]}]]}
    >>> list(tensors)
    ['state.0']
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        order = sorted(range(value.dim()), key=value.stride, reverse=True)
        # A copy of its own: safetensors refuses tensors that share memory.
        tensors[path] = (
            value.detach().cpu().permute(order).clone(memory_format=torch.contiguous_format)
        )
        return {"tensor": path, "order": order}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list):
        return [pack(each, tensors, f"{path}.{index}") for index, each in enumerate(value)]
    if isinstance(value, tuple):
        return {"tuple": pack(list(value), tensors, path)}
    if isinstance(value, Mapping):
        entries = value.items()
        return {"dict": [[pack(k, {}, path), pack(v, tensors, f"{path}.{k}")] for k, v in entries]}
    raise TypeError(f"a checkpoint cannot hold {path}, a {type(value).__name__}: {value!r:.80}")


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `pack` was given."""
    if isinstance(value, list):
        return [unpack(each, tensors) for each in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        order = value["order"]
        # In memory of its own: how the file's bytes are aligned would change last bits of some sums.
        return (
            tensors[value["tensor"]]
            .permute([order.index(axis) for axis in range(len(order))])
            .clone()
        )
    if "tuple" in value:
        return tuple(unpack(value["tuple"], tensors))
    return {unpack(key, tensors): unpack(each, tensors) for key, each in value["dict"]}


def to_bytes(state: Mapping[str, Any]) -> bytes:
    """A state as the bytes of a file."""
    save = require("safetensors.torch", "writing a checkpoint").save
    tensors: dict[str, Tensor] = {}
    packed = pack(state, tensors)
    return save(tensors, {HEADER_KEY: json.dumps({"version": FORMAT_VERSION, "state": packed})})


class Found(NamedTuple):
    """A checkpoint file: the step in its name, the start of its checksum, where it lies."""

    step: int
    checksum: str
    path: Path

    def read(self) -> dict[str, Any]:
        """The state in it.

        Errors: ValueError for a damaged file, or one of another version.
        """
        reader = require("safetensors", "reading a checkpoint")
        content = self.path.read_bytes()
        got = hashlib.sha256(content).hexdigest()[:16]
        if got != self.checksum:
            raise ValueError(
                f"{self.path} is damaged: its checksum is {got}, wanted {self.checksum}"
            )
        try:
            with reader.safe_open(str(self.path), framework="pt") as file:
                header = json.loads((file.metadata() or {})[HEADER_KEY])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (reader.SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{self.path} is no checkpoint of this library: {error}") from None
        if header["version"] != FORMAT_VERSION:
            raise ValueError(
                f"{self.path} has format {header['version']}, wanted {FORMAT_VERSION}: read it with "
                "the version of this library that wrote it"
            )
        return unpack(header["state"], tensors)


class CheckpointFolder:
    """The checkpoints of one run.

    Args: folder, keep (2: the newest and the one before it).

    >>> import tempfile
    >>> folder = CheckpointFolder(tempfile.mkdtemp(), keep=2)
    >>> for step in (10, 20, 30):
    ...     folder.save(step, {'weights': torch.full((2,), float(step))})
    >>> [each.step for each in folder.found()], folder.latest()['weights']
    ([30, 20], tensor([30., 30.]))
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        if not isinstance(keep, int) or keep < 1:
            raise ValueError(f"keep must be a whole number >= 1, got {keep!r}")
        self.folder = Path(folder)
        self.keep = keep

    def found(self) -> list[Found]:
        """The checkpoint files there are, the newest first."""
        if not self.folder.is_dir():
            return []
        matches = ((NAME.fullmatch(path.name), path) for path in self.folder.iterdir())
        files = [Found(int(match[1]), match[2], path) for match, path in matches if match]
        return sorted(files, key=lambda each: (each.step, each.path.stat().st_mtime), reverse=True)

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint, then remove those that are too many.

        Errors: OSError, the older ones being left as they are; TypeError for a state that no file
        can hold.
        """
        content = to_bytes(state)
        checksum = hashlib.sha256(content).hexdigest()[:16]
        write_whole(self.folder / f"step-{step:08d}-{checksum}.safetensors", content)
        for old in self.found()[self.keep :]:
            old.path.unlink(missing_ok=True)

    def latest(self) -> dict[str, Any] | None:
        """The newest state that is whole; None if there is no checkpoint.

        A damaged one is passed over with a warning.

        Errors: ValueError if every one is damaged.
        """
        files = self.found()
        for index, file in enumerate(files):
            try:
                return file.read()
            except (ValueError, OSError) as error:
                if index + 1 == len(files):
                    raise ValueError(
                        f"{error}; no other checkpoint is in {self.folder}: remove the folder to "
                        "start the run anew"
                    ) from None
                warnings.warn(
                    f"{error}; going on from the one before, of step {files[index + 1].step}",
                    stacklevel=2,
                )
        return None

    def clear(self) -> None:
        """Remove the checkpoints, what a killed write left, and the folder if nothing else is in it."""
        for file in self.found():
            file.path.unlink(missing_ok=True)
        self.clear_parts()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def clear_parts(self) -> None:
        """Remove what a write left that was killed."""
        if self.folder.is_dir():
            for part in self.folder.glob(f"step-*{PART}"):
                part.unlink(missing_ok=True)
