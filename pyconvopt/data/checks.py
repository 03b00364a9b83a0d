"""What arrays must be before they are trained on: each refusal says what was got and wanted."""

from __future__ import annotations

import math
import operator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyconvopt.data.rows import MappedArray, Rows, is_mapped

NUMBERS = "biuf"  # numpy's kinds: bool, signed and unsigned integers, floats


def whole(name: str, value: Any, least: int | None = 1) -> int:
    """A whole number of Python's or NumPy's, `least` (1; None: any) or more.

    >>> whole('batch_size', np.int64(32))
    32
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or (least is not None and number < least):
        least_said = "" if least is None else f" >= {least}"
        raise ValueError(f"{name} must be a whole number{least_said}, got {value!r}")
    return number


def as_tensor(values: Any, what: str) -> Tensor:
    """An array, list or tensor as a tensor, its memory shared where it can be.

    Errors: TypeError for anything but numbers, ValueError for rows of different lengths or no
    axis at all.
    """
    if isinstance(values, Tensor):
        tensor = values.detach()
    else:
        try:
            array = np.asarray(values)
        except ValueError:
            raise ValueError(
                f"the {what} have rows of different shapes; wanted one array"
            ) from None
        if array.dtype.kind not in NUMBERS:
            raise TypeError(
                f"the {what} have dtype {array.dtype}; wanted numbers, such as float32 or uint8"
            )
        tensor = from_numpy(array)
    if tensor.is_complex():
        raise TypeError(f"the {what} have dtype {tensor.dtype}; wanted real numbers")
    if tensor.dim() == 0:
        raise ValueError(f"the {what} are a single number; wanted an array, one entry a sample")
    return tensor


def as_samples(values: Any) -> Tensor | Rows:
    """Images as a tensor, or as rows that are read when a batch asks for them.

    Memory-mapped arrays, and the path of a .npy file, stay on disk.

    Errors: as `as_tensor`.
    """
    if isinstance(values, Rows):
        return values
    if isinstance(values, (str, Path)) or is_mapped(values):
        return MappedArray(values)
    return as_tensor(values, "images")


def from_numpy(array: np.ndarray) -> Tensor:
    """A numeric array as a tensor: native byte order, a type torch computes with."""
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    elif array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    native = np.require(array, array.dtype.newbyteorder("="), "C")
    # torch warns about memory it may not write to; such an array is copied.
    return torch.from_numpy(native if native.flags.writeable else native.copy())


def require_parts(batch: Any) -> None:
    """Refuse a batch that is not (x, y) or (x, y, weights)."""
    if isinstance(batch, (tuple, list)) and 2 <= len(batch) <= 3:
        return
    got = type(batch).__name__
    if isinstance(batch, Tensor):
        got = f"{got} of shape {tuple(batch.shape)}"
    elif isinstance(batch, dict):
        got = f"{got} of {', '.join(map(str, batch))}"
    elif hasattr(batch, "__len__"):
        got = f"{got} of {len(batch)}"
    raise TypeError(
        f"a batch must be (x, y) or (x, y, weights), got a {got}: training and evaluation need labels"
    )


def require_samples(tensor: Tensor | Rows, what: str) -> None:
    """Refuse an empty array."""
    if tensor.numel() == 0:
        raise ValueError(f"the {what} are empty: got shape {tuple(tensor.shape)}")


def require_same_length(images: Tensor | Rows, labels: Tensor) -> None:
    """Refuse arrays that do not pair up."""
    if len(images) != len(labels):
        raise ValueError(
            f"images and labels must be as many: got {len(images)} images and {len(labels)} labels"
        )


def sample_weights(weights: Any, images: Tensor | Rows) -> Tensor:
    """Weights for the loss as float32, none negative: (N,), or (N, ...) where each pixel or step has one.

    Whether the model gives outputs for such places shows with its first batch.
    """
    found = as_tensor(weights, "weights").to(torch.float32)
    if found.shape[:1] != images.shape[:1]:
        raise ValueError(
            f"the weights must be one a sample, ({len(images)},), got shape {tuple(found.shape)}"
        )
    if not bool(((found >= 0) & (found < math.inf)).all()):
        raise ValueError("the weights must be 0 or more, got a negative one, infinite or NaN")
    return found


def require_finite(tensor: Tensor | Rows, what: str) -> None:
    """No NaN and no infinity. One sum over the data finds them; only then are they counted."""
    if not tensor.is_floating_point():
        return
    bad_values, bad_samples, first = 0, 0, None
    # Rows on disk come in parts; what is in memory is one.
    part_size = 4096 if isinstance(tensor, Rows) else max(1, len(tensor))
    for start in range(0, len(tensor), part_size):
        part = tensor[start : start + part_size]
        if bool(torch.isfinite(part.sum())) or bool(torch.isfinite(part).all()):
            continue
        bad = ~torch.isfinite(part)
        samples = bad.flatten(1).any(dim=1) if part.dim() > 1 else bad
        bad_values += int(bad.sum())
        bad_samples += int(samples.sum())
        first = start + int(samples.nonzero()[0]) if first is None else first
    if first is not None:
        raise ValueError(
            f"the {what} hold {bad_values} values that are NaN or infinite, in "
            f"{bad_samples} of {len(tensor)} samples, the first at index {first}; wanted "
            "finite numbers"
        )


def class_numbers(labels: Tensor) -> Tensor:
    """Labels as int64 class numbers (N,); a last axis of one is dropped, as in Keras.

    Errors: TypeError for labels that are not whole numbers.
    """
    if labels.is_floating_point() and not bool((labels == labels.round()).all()):
        wrong = labels[labels != labels.round()].flatten()[0]
        raise TypeError(f"labels must be whole class numbers, got {float(wrong)}")
    if labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    return labels.to(torch.int64)


def require_label_range(labels: Tensor, classes: int) -> None:
    """Class numbers must lie in 0 ... classes - 1."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise ValueError(
            f"label {wrong} is out of range: the model ends in {classes} classes, so labels must "
            f"lie in 0 ... {classes - 1}"
        )
