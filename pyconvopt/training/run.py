"""A recipe, run: data in, and a folder with everything the run was and made.

recipe.toml           exactly what was run, overrides included
environment.json      with which versions, kernels and threads
schedule.png          the learning rate to come, where the recipe has a schedule
history.csv           the numbers of each epoch, written as they come
history.json          the same with times
curves.png            loss, metrics and a scheduled learning rate over the epochs
weights.safetensors   the model, for `models.load`, and in its header what its data were made of
checkpoint/           while it runs: what `--resume` goes on from; removed at the end

A run that fails before its first checkpoint, or whose loss became no number, leaves nothing.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pyconvopt import data
from pyconvopt.data.checks import as_samples, require_finite
from pyconvopt.data.rows import Pixels, Rows
from pyconvopt.extras import require
from pyconvopt.files import write_whole
from pyconvopt.machine import facts
from pyconvopt.models import Sequential
from pyconvopt.models.saving import HEADER_KEY
from pyconvopt.training import recipe_parts
from pyconvopt.training.checkpoint import CheckpointFolder
from pyconvopt.training.history import History
from pyconvopt.training.loggers import CSVLogger
from pyconvopt.training.processes import join, restarted
from pyconvopt.training.recipes import Recipe

WEIGHTS = "weights.safetensors"
RECIPE = "recipe.toml"
ENVIRONMENT = "environment.json"
SCHEDULE = "schedule.png"
EPOCHS = "history.csv"
HISTORY = "history.json"
CHECKPOINT = "checkpoint"

# Of `machine.facts`, what may change a run's numbers or its time.
MADE_WITH = ("python", "packages", "instruction_set", "winograd", "threads", "environment")
DATA_KEY = "data"  # in a model file, beside its layers

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
    if (folder / CHECKPOINT).exists():
        raise ValueError(
            f"{folder} holds a run that was broken off; go on with it by --resume {folder}, or choose "
            "another folder with --out"
        )
    if (folder / RECIPE).exists():
        raise ValueError(f"{folder} holds a run already; choose another folder with --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise unwritable(folder, error) from None
    return folder


def unwritable(folder: Path, error: OSError) -> OSError:
    """The error for a run folder that cannot be made or written to."""
    return OSError(f"cannot write to the run folder {folder}: {error.strerror}")


@contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    """Within, a run that fails before its first checkpoint takes away what it wrote."""
    before = set(folder.iterdir())
    try:
        yield
    except Exception:
        if not (folder / CHECKPOINT).exists():
            written = {folder / name for name in (RECIPE, ENVIRONMENT, SCHEDULE, EPOCHS)}
            for file in written - before:
                file.unlink(missing_ok=True)
            with suppress(OSError):  # something else lies there
                folder.rmdir()
        raise


def default_folder(recipe: Recipe) -> Path:
    """A new folder runs/<recipe>-<date>-<time>, -2, -3 ... behind a name that another run has.

    Errors: OSError if it cannot be made.
    """
    folder = first = Path("runs") / f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 1
    while True:
        try:
            folder.mkdir(parents=True)  # which of several runs only one can
        except FileExistsError:
            number += 1
            folder = first.with_name(f"{first.name}-{number}")
        except OSError as error:
            raise unwritable(folder, error) from None
        else:
            return folder


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


def build(recipe: Recipe, train: Pair) -> Sequential:
    """The recipe's model for these images, its weights drawn by the recipe's seed."""
    torch.manual_seed(recipe.table["fit"]["seed"])
    return recipe.model_for(*train)


def fit_recipe(
    recipe: Recipe,
    train: Pair,
    validation: Pair | None,
    *,
    model: Sequential | None = None,
    **options: Any,
) -> tuple[Sequential, History]:
    """The recipe's model, trained on these images.

    `model` (None): what `build` gave just before; `options` go to `fit`, before the recipe's own.
    """
    model = build(recipe, train) if model is None else model
    changes = {name: options.pop(name) for name in ("batch_size", "seed") if name in options}
    loader = recipe.batches(*train, **changes)
    settings = recipe.table["fit"]
    own = {"epochs": settings["epochs"], "validation_freq": settings.get("validation_freq", 1)}
    return model, model.fit(loader, validation_data=validation, **{**own, **options})


def draw_schedule(recipe: Recipe, train: Pair, folder: Path) -> None:
    """The picture of the recipe's schedule, if it has one, over the run to come."""
    from pyconvopt import pictures

    schedule = recipe_parts.schedule(recipe.table)
    if schedule is None:
        return
    updates = -(-len(recipe.batches(*train)) // recipe.table["compile"].get("accumulate", 1))
    title = f"{recipe.name}: the learning rate of the run"
    pictures.schedule(
        schedule, updates, recipe.table["fit"]["epochs"], folder / SCHEDULE, title=title
    )


def environment() -> str:
    """What a run is made with, as JSON."""
    found = facts()
    return json.dumps({key: found[key] for key in MADE_WITH}, indent=2) + "\n"


def keep_data(file: Path, section: Mapping[str, Any]) -> None:
    """Write into a model file's header how its images are made: [data] but for their place."""
    to_bytes = require("safetensors.torch", "saving a model").save
    kept = {key: value for key, value in section.items() if key not in ("name", "in_memory")}
    if section["name"] in data.CLASS_NAMES:
        kept["classes"] = data.CLASS_NAMES[section["name"]]
    with require("safetensors", "saving a model").safe_open(str(file), framework="pt") as opened:
        described = json.loads(opened.metadata()[HEADER_KEY])
        state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    # In the one entry there is: several are written in any order, and a run's bits are to be the same.
    write_whole(file, to_bytes(state, {HEADER_KEY: json.dumps({**described, DATA_KEY: kept})}))


def kept_data(file: Path) -> dict[str, Any] | None:
    """What `keep_data` wrote into a model file; None for one that was saved by itself."""
    with require("safetensors", "loading a model").safe_open(str(file), framework="pt") as opened:
        return json.loads(opened.metadata()[HEADER_KEY]).get(DATA_KEY)


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

    processes = join()
    resume = resume or processes.any(restarted())
    if folder is None or not resume:
        given = folder
        folder = processes.from_first(lambda: make_folder(given or default_folder(recipe)))
    folder = Path(folder)
    goes_on = resume or not processes.is_first
    with nullcontext() if goes_on else nothing_left(folder):
        # Asked for now, not after five epochs.
        require("safetensors", "writing the run folder")
        require("matplotlib", "drawing learning curves")
        train, test = load_images(recipe)
        require_finite(as_samples(test[0]), "test images")  # now, not after the last epoch
        model = build(recipe, train)
        if processes.is_first:
            write_whole(folder / RECIPE, recipe.to_toml())
            write_whole(folder / ENVIRONMENT, environment())
            draw_schedule(recipe, train, folder)
        _, history = fit_recipe(
            recipe,
            train,
            test if recipe.table["fit"]["validation"] == "test" else None,
            model=model,
            callbacks=[CSVLogger(folder / EPOCHS)],
            verbose=verbose,
            checkpoint=folder / CHECKPOINT,
        )
        failure = model.trainer().failure
        if failure is not None:
            if not goes_on:
                CheckpointFolder(folder / CHECKPOINT).clear()  # going on would fail again
            raise RuntimeError(
                f"{failure}; set a lower compile.learning_rate, or compile.clip_norm"
            )
    scores = model.evaluate(*test, verbose=0, return_dict=True)
    if processes.is_first:
        title = f"{recipe.name} on {recipe.table['data']['name']}"
        try:
            history.to_json(folder / HISTORY)
            pictures.curves(history, folder / "curves.png", title=title, held_out="test images")
            model.save(folder / WEIGHTS)
            keep_data(folder / WEIGHTS, recipe.table["data"])
        except OSError as error:
            raise OSError(
                f"the run has ended, but its files could not be written: {error}; make room, then "
                f"pyconvopt train --resume {folder} writes them"
            ) from None
        CheckpointFolder(folder / CHECKPOINT).clear()
    return Result(model, folder, scores)


def resume_run(folder: str | Path, verbose: int | str = "auto") -> Result:
    """Go on with a run that was broken off, to the same bits as if it had not been.

    One that has no checkpoint yet begins anew.

    Errors: ValueError for a folder without a run, or with one that has ended.
    """
    folder = Path(folder)
    if not (folder / RECIPE).is_file():
        raise ValueError(f"{folder} holds no run: there is no {RECIPE} in it")
    if (folder / WEIGHTS).exists() and not (folder / CHECKPOINT).exists():
        raise ValueError(f"the run in {folder} has ended; there is nothing to resume")
    return run_recipe(Recipe.load(str(folder / RECIPE)), folder, verbose, resume=True)
