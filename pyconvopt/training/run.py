"""A recipe, run: data in, and a folder with everything the run was and made.

recipe.toml           exactly what was run, overrides included
history.csv           the numbers of each epoch, written as they come
history.json          the same with times
curves.png            loss and metrics over the epochs
weights.safetensors   the model, for `models.load`
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from pyconvopt import data
from pyconvopt.extras import require
from pyconvopt.models import Sequential
from pyconvopt.training.curves import plot_curves
from pyconvopt.training.loggers import CSVLogger
from pyconvopt.training.recipes import Recipe

WEIGHTS = "weights.safetensors"
RECIPE = "recipe.toml"


class Result(NamedTuple):
    """What a run came to: the model, its folder, and loss and metrics on the test images."""

    model: Sequential
    folder: Path
    test: dict[str, float]


def images(pixels: np.ndarray, scale: float) -> np.ndarray:
    """Pixels (N, H, W) or (N, H, W, C) as float32 (N, H, W, C), divided by `scale`.

    >>> images(np.full((1, 2, 2), 255, np.uint8), 255.0)[0, 0, 0]
    array([1.], dtype=float32)
    """
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4:
        raise ValueError(f"images must be (N, H, W) or (N, H, W, C), got shape {pixels.shape}")
    return pixels.astype(np.float32) / np.float32(scale)


def make_folder(folder: str | Path) -> Path:
    """An empty run folder that can be written to.

    Errors: OSError if it cannot, ValueError if it holds a run already.
    """
    folder = Path(folder)
    if (folder / RECIPE).exists():
        raise ValueError(f"{folder} holds a run already; choose another folder with --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"cannot write to the run folder {folder}: {error.strerror}") from None
    return folder


def default_folder(recipe: Recipe) -> Path:
    """runs/<recipe>-<date>-<time>."""
    return Path("runs") / f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}"


def run_recipe(
    recipe: Recipe, folder: str | Path | None = None, verbose: int | str = "auto"
) -> Result:
    """Train as the recipe says and write the run folder (default runs/<recipe>-<time>).

    Errors: OSError for a folder that cannot be written, ValueError for a recipe or data that do
    not fit together, ImportError naming the extra if matplotlib or safetensors is missing.
    """
    # Asked for now, not after five epochs.
    require("safetensors", "writing the run folder")
    require("matplotlib", "drawing learning curves")
    settings = recipe.table["fit"]
    torch.manual_seed(settings["seed"])
    folder = make_folder(default_folder(recipe) if folder is None else folder)
    (train_pixels, train_labels), (test_pixels, test_labels) = data.load(
        recipe.table["data"]["name"]
    )
    scale = recipe.table["data"]["scale"]
    train_images, test_images = images(train_pixels, scale), images(test_pixels, scale)
    model = recipe.model(train_images.shape[1:])
    (folder / RECIPE).write_text(recipe.to_toml(), encoding="utf-8")
    history = model.fit(
        train_images,
        train_labels,
        epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        seed=settings["seed"],
        validation_data=(test_images, test_labels) if settings["validation"] == "test" else None,
        callbacks=[CSVLogger(folder / "history.csv")],
        verbose=verbose,
    )
    model.save(folder / WEIGHTS)
    history.to_json(folder / "history.json")
    title = f"{recipe.name} on {recipe.table['data']['name']}"
    plot_curves(history, folder / "curves.png", title, held_out="test images")
    test = model.evaluate(test_images, test_labels, verbose=0, return_dict=True)
    return Result(model, folder, test)
