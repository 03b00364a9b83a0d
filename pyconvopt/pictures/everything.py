"""Every picture that a model, its data and its run have, written into one folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from pyconvopt.data import checks
from pyconvopt.pictures.answers import confusion_matrix, mistakes, probabilities
from pyconvopt.pictures.convolutions import convolutions, feature_maps, filters
from pyconvopt.pictures.curves import curves
from pyconvopt.pictures.histograms import histograms
from pyconvopt.training.history import History

BATCH = 256  # samples whose gradients are taken


def write_all(
    model: nn.Module,
    x: Any,
    y: Any,
    folder: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    history: History | None = None,
    loss: Any = None,
) -> list[Path]:
    """Write the pictures of a trained classifier as PNG, and return their paths.

    Args: model, x and y (held-out samples with their classes), folder (made if it is not there),
    class_names (None: numbers), history (None; what `fit` returned), loss (None: what the model was
    compiled with, else 'cross_entropy').

    curves.png (with a history), confusion_matrix.png, mistakes.png (for images), filters.png and
    feature_maps.png (of the first image; for models with a convolution), histograms.png (gradients
    of the first 256 samples).

    Errors: those of the single pictures; ImportError naming the extra if matplotlib is missing.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = write_all(nn.Linear(2, 2), torch.randn(8, 2), [0, 1] * 4, folder)
    >>> [path.name for path in paths]
    ['confusion_matrix.png', 'histograms.png']
    """
    folder, images = Path(folder), checks.as_tensor(x, "images")
    labels = checks.as_tensor(y, "labels")
    written: list[Path] = []

    def place(name: str) -> Path:
        written.append(folder / f"{name}.png")
        return written[-1]

    answers = probabilities(model, images)
    if history is not None:
        curves(history, place("curves"))
    confusion_matrix(labels, answers, class_names, place("confusion_matrix"))
    if images.dim() == 4:
        mistakes(model, images, labels, class_names=class_names, path=place("mistakes"))
        if convolutions(model):
            filters(model, path=place("filters"))
            feature_maps(model, images[0], path=place("feature_maps"))
    histograms(model, images[:BATCH], labels[:BATCH], place("histograms"), loss=loss)
    return written
