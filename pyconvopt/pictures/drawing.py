"""What the pictures share: colours, a figure without pyplot, files, images, small tiles in a grid."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pyconvopt.extras import require
from pyconvopt.files import write_whole

Item = TypeVar("Item")

BLUE, RED, GREEN, GREY = "#2a6f97", "#d1495b", "#66a182", "#6b7280"


def new_figure(width: float, height: float, purpose: str) -> Any:
    """An empty figure of that many inches.

    A Figure without pyplot draws with Agg and leaves pyplot's global state alone.
    """
    require("matplotlib.figure", purpose)
    from pyconvopt.pictures.figure import Picture

    return Picture(figsize=(width, height), dpi=120, layout="constrained")


def picture_format(path: str | Path) -> str:
    """The format that a file's ending names, PNG without one.

    Errors: ValueError for one that matplotlib does not write.
    """
    formats = require(
        "matplotlib.backend_bases", "drawing"
    ).FigureCanvasBase.get_supported_filetypes()
    ending = Path(path).suffix[1:].lower() or "png"
    if ending not in formats:
        raise ValueError(
            f"a picture must end in one of {', '.join(f'.{each}' for each in sorted(formats))}, got "
            f"{Path(path).name!r}"
        )
    return ending


def finished(figure: Any, path: str | Path | None) -> Any:
    """The figure, written to `path` if one is given, in the format its ending names (else PNG)."""
    if path is not None:
        content = io.BytesIO()
        figure.savefig(content, format=picture_format(path))
        write_whole(path, content.getvalue())
    return figure


def plain(axes: Any) -> None:
    """A panel with a faint grid and without the frame's top and right side."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of the items, evenly from the first to the last.

    >>> spread('abcdefg', 3)
    ['a', 'd', 'g']
    """
    if len(items) <= most:
        return list(items)
    return [items[round(index * (len(items) - 1) / max(most - 1, 1))] for index in range(most)]


def some_of(shown: int, there: int, what: str) -> str:
    """How many are shown, and of how many if not all.

    >>> some_of(8, 64, 'filters'), some_of(8, 8, 'filters')
    ('8 of 64 filters', '8 filters')
    """
    return f"{shown} {what}" if shown == there else f"{shown} of {there} {what}"


def mosaic(tiles: np.ndarray, gap: int = 1) -> np.ndarray:
    """Tiles (rows, columns, height, width[, colours]) as one image, NaN between them.

    >>> mosaic(np.ones((1, 2, 1, 1)))
    array([[ 1., nan,  1.]])
    """
    rows, columns, height, width, *colours = tiles.shape
    down, across = height + gap, width + gap
    whole = np.full((rows * down - gap, columns * across - gap, *colours), np.nan)
    for row in range(rows):
        for column in range(columns):
            top, left = row * down, column * across
            whole[top : top + height, left : left + width] = tiles[row, column]
    return whole


def in_rows(tiles: np.ndarray, columns: int) -> np.ndarray:
    """Tiles (number, ...) as (rows, columns, ...), the last row filled up with NaN."""
    rows = -(-len(tiles) // columns)
    filled = np.full((rows * columns, *tiles.shape[1:]), np.nan)
    filled[: len(tiles)] = tiles
    return filled.reshape(rows, columns, *tiles.shape[1:])


def show_tiles(axes: Any, image: np.ndarray, **options: Any) -> Any:
    """A mosaic without axes; between the tiles the paper shows."""
    if image.ndim == 3:
        paper = np.isnan(image[..., :1])
        image = np.concatenate([np.nan_to_num(image), np.where(paper, 0.0, 1.0)], axis=-1)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return axes.imshow(image, interpolation="nearest", **options)


def show_picture(axes: Any, picture: np.ndarray) -> None:
    """An image as `as_picture` gives it, without axes; one channel in grey."""
    grey: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1} if picture.ndim == 2 else {}
    show_tiles(axes, picture, **grey)


def as_picture(image: Tensor, channels_last: bool) -> np.ndarray:
    """An image as matplotlib shows it: (H, W) or (H, W, 3), from 0 to 1.

    Bytes are divided by 255. Other values stay if they lie between 0 and 1; else, as those of
    standardised images, they are stretched over that range.

    Errors: ValueError for anything but one or three channels.

    >>> as_picture(torch.tensor([[[-1.0, 1.0]]]), channels_last=False)
    array([[0., 1.]])
    """
    values = image.detach().cpu()
    if values.dim() == 3 and not channels_last:
        values = values.permute(1, 2, 0)
    if values.dim() not in (2, 3) or (values.dim() == 3 and values.shape[2] not in (1, 3)):
        order = "(H, W, C)" if channels_last else "(C, H, W)"
        raise ValueError(
            f"only images of 1 or 3 channels can be shown, as {order}; got shape "
            f"{tuple(image.shape)}"
        )
    array = values.numpy().astype(np.float64)
    if values.dtype == torch.uint8:
        array = array / 255
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 1:
        array = (array - low) / ((high - low) or 1.0)
    return array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
