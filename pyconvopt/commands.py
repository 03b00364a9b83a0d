"""The commands of `pyconvopt`: a few lines each over the library; errors are `cli`'s business."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from pyconvopt import data, models
from pyconvopt.extras import require
from pyconvopt.training.recipes import Recipe, parse_value
from pyconvopt.training.run import RECIPE, WEIGHTS, images, run_recipe

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train convolutional networks on this machine's fast kernels.",
)

DataOption = Annotated[str | None, typer.Option("--data", help="Data set, such as fashion-mnist.")]
RunArgument = Annotated[Path, typer.Argument(help="A run folder, or a model file.")]


def chosen_recipe(recipe: str, changes: list[str]) -> Recipe:
    """A recipe with its --set key=value changes; a wrong one is wrong usage."""
    try:
        chosen = Recipe.load(recipe)
        for change in changes:
            key, equals, value = change.partition("=")
            if not equals:
                raise ValueError(f"--set takes key=value, got {change!r}")
            chosen.set(key.strip(), parse_value(value.strip()))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return chosen


@app.command()
def train(
    data: DataOption = None,
    recipe: Annotated[str, typer.Option(help="A recipe's name, or a .toml file.")] = "seed",
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images a step.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of weights and order.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; default runs/<recipe>-<time>.")
    ] = None,
    set: Annotated[
        list[str] | None, typer.Option("--set", help="Change a recipe's value: key=value.")
    ] = None,
) -> None:
    """Train a recipe and write a run folder; the last line printed is the test accuracy."""
    changes = [
        f"{key}={value}"
        for key, value in (
            ("data.name", data),
            ("fit.epochs", epochs),
            ("fit.batch_size", batch_size),
            ("fit.seed", seed),
        )
        if value is not None
    ]
    result = run_recipe(chosen_recipe(recipe, changes + (set or [])), out)
    print(f"run folder: {result.folder}")
    print(f"test accuracy: {result.test['accuracy']:.4f}")


def run_and_recipe(run: Path) -> tuple[models.Sequential, Recipe | None]:
    """The model of a run folder or a model file, and the recipe that lies beside it."""
    file = run / WEIGHTS if run.is_dir() else run
    beside = file.parent / RECIPE
    return models.load(file), Recipe.load(str(beside)) if beside.is_file() else None


@app.command()
def evaluate(run: RunArgument, data_name: DataOption = None) -> None:
    """Loss and metrics of a trained model on a data set's test images."""
    model, recipe = run_and_recipe(run)
    name = data_name or (recipe.table["data"]["name"] if recipe else None)
    if name is None:
        raise typer.BadParameter("a model file has no recipe beside it: name the data, --data NAME")
    scale = recipe.table["data"]["scale"] if recipe else 255.0
    _, (test_images, test_labels) = data.load(name)
    logs = model.evaluate(images(test_images, scale), test_labels, verbose=0, return_dict=True)
    for metric, value in logs.items():
        print(f"test {metric}: {value:.4f}")


def read_images(path: Path, channels: int) -> np.ndarray:
    """Pixels from a .npy file, or from one picture (Pillow)."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix == ".npy":
        try:
            return np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} is no array file: {error}") from None
    pillow = require("PIL.Image", "reading a picture")
    try:
        picture = pillow.open(path).convert("L" if channels == 1 else "RGB")
    except pillow.UnidentifiedImageError:
        raise ValueError(f"{path} is neither a .npy array nor a picture Pillow knows") from None
    return np.asarray(picture)[None]


@app.command()
def predict(
    run: RunArgument,
    source: Annotated[Path, typer.Argument(help="A .npy array of images, or a picture.")],
    out: Annotated[Path | None, typer.Option(help="Also write the probabilities, .npy.")] = None,
) -> None:
    """The most probable class of each image, one line an image: index, class, probability."""
    model, recipe = run_and_recipe(run)
    pixels = read_images(source, (model.input_shape or (1,))[-1] or 1)
    scale = recipe.table["data"]["scale"] if recipe else 255.0
    # Floating-point images are taken as scaled already.
    outputs = model.predict(images(pixels, scale if pixels.dtype.kind in "ui" else 1.0))
    names = data.CLASS_NAMES.get(recipe.table["data"]["name"]) if recipe else None
    for index, row in enumerate(outputs):
        best = int(row.argmax())
        label = names[best] if names and len(names) == len(row) else str(best)
        print(f"{index}\t{label}\t{row[best]:.4f}")
    if out is not None:
        np.save(out, outputs)


@app.command()
def explain(
    run: Annotated[Path | None, typer.Argument(help="A run folder or a model file.")] = None,
    recipe: Annotated[str, typer.Option(help="A recipe's name, or a .toml file.")] = "seed",
    batch_size: Annotated[int, typer.Option(min=1, help="Images in the batch.")] = 64,
) -> None:
    """The kernel chosen for each layer and pass, and why."""
    import pyconvopt

    model = run_and_recipe(run)[0] if run else chosen_recipe(recipe, []).model((28, 28, 1))
    shape = [size or 32 for size in (model.input_shape or ())[1:]]
    print(pyconvopt.explain(model, torch.zeros(batch_size, *shape)))


def version(package: str) -> str:
    """An installed package's version."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def instruction_sets() -> str:
    """What the compiled kernels say of this machine."""
    if find_spec("pyconvopt._C") is None:
        return "the kernels are not built: pip install . in the source folder"
    from pyconvopt import _C

    return f"{_C.isa()} (this machine has {', '.join(_C.available_isas())})"


@app.command()
def doctor() -> None:
    """Versions, instruction set, threads: what to send along with a bug report."""
    print(f"python            {platform.python_version()} on {platform.platform()}")
    for package in ("pyconvopt", "torch", "numpy", "typer", "rich", "matplotlib", "safetensors"):
        print(f"{package:<17} {version(package)}")
    print(f"instruction set   {instruction_sets()}")
    print(f"threads           {torch.get_num_threads()} of {os.cpu_count()} processors")
    for name in data.CLASS_NAMES:
        found = [str(folder) for folder in data.folders(name) if folder.is_dir()]
        print(f"{name:<17} {found[0] if found else 'not here yet; fetched when first used'}")
