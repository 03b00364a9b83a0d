"""The samples of a batch, chosen by number out of the whole arrays."""

from __future__ import annotations

import torch
from torch import Tensor

from pyconvopt.data.rows import Rows

GATHERED = (torch.float32, torch.uint8)


def as_floats(x: Tensor) -> Tensor:
    """The samples as float32; those that are stay what they are."""
    return x if x.dtype is torch.float32 else x.to(torch.float32)


def chosen(x: Tensor | Rows, y: Tensor | None, rows: Tensor) -> tuple[Tensor, Tensor | None]:
    """The samples of these numbers, images as float32, and their labels if there are any.

    One operator for floats and bytes in memory: between training steps, with cold caches, each of
    torch's takes some 40 µs.

    >>> chosen(torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8), None, torch.tensor([1]))
    (tensor([[3., 4.]]), None)
    """
    if is_gathered(x) and x.dtype in GATHERED and (y is None or is_gathered(y)):
        images, labels = torch.ops.pyconvopt.gather_samples.default(x, y, rows)
        return images, None if y is None else labels
    images = as_floats(x.index_select(0, rows))
    return images, None if y is None else y.index_select(0, rows)


def is_gathered(values: Tensor | Rows) -> bool:
    """Whether the operator takes them: in the CPU's memory, sample behind sample."""
    return isinstance(values, Tensor) and values.is_cpu and values.is_contiguous()
