"""A recipe, run: data in, and a folder with everything the run was and made.

recipe.toml           exactly what was run, overrides included
schedule.png          the learning rate to come, where the recipe has a schedule
history.csv           the numbers of each epoch, written as they come
history.json          the same with times
curves.png            loss, metrics and a scheduled learning rate over the epochs
weights.safetensors   the model, for `models.load`
checkpoint/           while it runs: what `--resume` goes on from; removed at the end
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pyconvopt import data
from pyconvopt.data.rows import Pixels, Rows
from pyconvopt.extras import require
from pyconvopt.files import write_whole
from pyconvopt.models import Sequential
from pyconvopt.training import recipe_parts
from pyconvopt.training.checkpoint import CheckpointFolder
from pyconvopt.training.history import History
from pyconvopt.training.loggers import CSVLogger
from pyconvopt.training.processes import join, restarted
from pyconvopt.training.recipes import Recipe

WEIGHTS = "weights.safetensors"
RECIPE = "recipe.toml"
HISTORY = "history.json"
CHECKPOINT = "checkpoint"

Pair = tuple[np.ndarray, np.ndarray]


class Result(NamedTuple):
    """What a run came to: the model, its folder, and loss and metrics on the test images."""

    model: Sequential
    folder: Path
    test: dict[str, float]


def images(pixels: Any, scale: float) -> Any:
    """Pixels (N, H, W) or (N, H, W, C) as float32 (N, H, W, C), divided by `scale`.

    At a scale of 1 they keep their type: bytes stay bytes, and become floats batch by batch. Rows
    on disk stay there.

    >>> images(np.full((1, 2, 2), 255, np.uint8), 255.0)[0, 0, 0]
    array([1.], dtype=float32)
    """
    if len(pixels.shape) not in (3, 4):
        raise ValueError(
            f"images must be (N, H, W) or (N, H, W, C), got shape {tuple(pixels.shape)}"
        )
    if isinstance(pixels, Rows):
        return Pixels(pixels, scale)
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    return pixels if scale == 1 else pixels.astype(np.float32) / np.float32(scale)


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


def load_images(recipe: Recipe) -> tuple[Pair, Pair]:
    """(images, labels) for training and for testing, as the recipe says; it learns the classes."""
    section = recipe.table["data"]
    keys = ("image_size", "test_share", "damaged", "in_memory")
    options = {key: section[key] for key in keys if key in section}
    (train, test), classes = data.load_named(section["name"], **options)
    if classes is not None and section["name"] not in data.CLASS_NAMES:
        section["classes"] = list(classes)
    scale = section["scale"]
    return (images(train[0], scale), train[1]), (images(test[0], scale), test[1])


def fit_recipe(
    recipe: Recipe, train: Pair, validation: Pair | None, **options: Any
) -> tuple[Sequential, History]:
    """The recipe's model, trained on these images; `options` go to `fit`."""
    settings = recipe.table["fit"]
    torch.manual_seed(settings["seed"])
    model = recipe.model_for(*train)
    changes = {name: options.pop(name) for name in ("batch_size", "seed") if name in options}
    loader = recipe.batches(*train, **changes)
    fit = {"epochs": settings["epochs"], **options}
    return model, model.fit(loader, validation_data=validation, **fit)


def draw_schedule(recipe: Recipe, train: Pair, folder: Path) -> None:
    """The picture of the recipe's schedule, if it has one, over the run to come."""
    from pyconvopt import pictures

    schedule = recipe_parts.schedule(recipe.table)
    if schedule is None:
        return
    updates = -(-len(recipe.batches(*train)) // recipe.table["compile"].get("accumulate", 1))
    title = f"{recipe.name}: the learning rate of the run"
    pictures.schedule(
        schedule, updates, recipe.table["fit"]["epochs"], folder / "schedule.png", title=title
    )


def run_recipe(
    recipe: Recipe,
    folder: str | Path | None = None,
    verbose: int | str = "auto",
    resume: bool = False,
) -> Result:
    """Train as the recipe says and write the run folder (default runs/<recipe>-<time>).

    `resume` (False): go on with the broken-off run in that folder; see `resume_run`. Of several
    processes that `torchrun` starts the first writes; each returns the result. Started anew by it,
    because one had died, they go on in the folder.

    Errors: OSError for a folder that cannot be written, ValueError for a recipe or data that do
    not fit together, RuntimeError if the loss became no number, ImportError naming the extra if
    matplotlib or safetensors is missing.
    """
    # Pictures need this package, which is not whole before they are imported.
    from pyconvopt import pictures

    # Asked for now, not after five epochs.
    require("safetensors", "writing the run folder")
    require("matplotlib", "drawing learning curves")
    processes = join()
    resume = resume or processes.any(restarted())
    if folder is None or not resume:
        chosen = default_folder(recipe) if folder is None else folder
        folder = processes.from_first(lambda: make_folder(chosen))
    folder = Path(folder)
    train, test = load_images(recipe)
    if processes.is_first:
        write_whole(folder / RECIPE, recipe.to_toml())
        draw_schedule(recipe, train, folder)
    model, history = fit_recipe(
        recipe,
        train,
        test if recipe.table["fit"]["validation"] == "test" else None,
        callbacks=[CSVLogger(folder / "history.csv")],
        verbose=verbose,
        validation_freq=recipe.table["fit"].get("validation_freq", 1),
        checkpoint=folder / CHECKPOINT,
    )
    failure = model.trainer().failure
    if failure is not None:
        raise RuntimeError(f"{failure}; set a lower compile.learning_rate, or compile.clip_norm")
    scores = model.evaluate(*test, verbose=0, return_dict=True)
    if processes.is_first:
        title = f"{recipe.name} on {recipe.table['data']['name']}"
        try:
            history.to_json(folder / HISTORY)
            pictures.curves(history, folder / "curves.png", title=title, held_out="test images")
            model.save(folder / WEIGHTS)
        except OSError as error:
            raise OSError(
                f"the run has ended, but its files could not be written: {error}; make room, then "
                f"pyconvopt train --resume {folder} writes them"
            ) from None
        CheckpointFolder(folder / CHECKPOINT).clear()
    return Result(model, folder, scores)


def resume_run(folder: str | Path, verbose: int | str = "auto") -> Result:
    """Go on with a run that was broken off, to the same bits as if it had not been.

    Errors: ValueError for a folder without a run, or with one that has ended.
    """
    folder = Path(folder)
    if not (folder / RECIPE).is_file():
        raise ValueError(f"{folder} holds no run: there is no {RECIPE} in it")
    if (folder / WEIGHTS).exists() and not (folder / CHECKPOINT).exists():
        raise ValueError(f"the run in {folder} has ended; there is nothing to resume")
    return run_recipe(Recipe.load(str(folder / RECIPE)), folder, verbose, resume=True)
