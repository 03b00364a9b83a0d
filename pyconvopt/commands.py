"""The commands of `pyconvopt`: a few lines each over the library; errors are `cli`'s business."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from pyconvopt import cli_experiments, data, models
from pyconvopt.cli_options import (
    DataOption,
    JsonOption,
    RecipeOption,
    RunArgument,
    SetOption,
    chosen_recipe,
    data_change,
)
from pyconvopt.data.image_folder import Form, decoded, opened
from pyconvopt.data.sources import located
from pyconvopt.models.export import FORMATS
from pyconvopt.models.export import export as export_model
from pyconvopt.training.processes import join
from pyconvopt.training.recipes import Recipe
from pyconvopt.training.run import (
    RECIPE,
    WEIGHTS,
    images,
    load_images,
    resume_run,
    run_recipe,
)

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train convolutional networks on this machine's fast kernels.",
)

app.command("find-lr")(cli_experiments.find_lr)
app.command()(cli_experiments.sweep)
app.command()(cli_experiments.compare)


@app.command()
def train(
    data: DataOption = None,
    recipe: RecipeOption = "seed",
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images a step.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of weights and order.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; default runs/<recipe>-<time>.")
    ] = None,
    set: SetOption = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the broken-off run in this folder.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Train a recipe and write a run folder; the last line printed is the test accuracy."""
    changes = data_change(data) + [
        f"{key}={value}"
        for key, value in (
            ("fit.epochs", epochs),
            ("fit.batch_size", batch_size),
            ("fit.seed", seed),
        )
        if value is not None
    ]
    verbose = 0 if json else "auto"
    if resume is None:
        result = run_recipe(chosen_recipe(recipe, changes + (set or [])), out, verbose)
    elif changes or set or out is not None or recipe != "seed":
        raise typer.BadParameter(
            "--resume goes on with the run as it was; it takes no other option"
        )
    else:
        result = resume_run(resume, verbose)
    if not join().is_first:
        return
    if json:
        print(dumps({"folder": str(result.folder), "test": result.test}))
        return
    print(f"run folder: {result.folder}")
    for name, value in result.test.items():
        if name not in ("loss", "accuracy"):
            print(f"test {name}: {value:.4f}")
    last = "accuracy" if "accuracy" in result.test else "loss"
    print(f"test {last}: {result.test[last]:.4f}")


def run_and_recipe(run: Path) -> tuple[models.Sequential, Recipe | None]:
    """The model of a run folder or a model file, and the recipe that lies beside it."""
    file = run / WEIGHTS if run.is_dir() else run
    beside = file.parent / RECIPE
    return models.load(file), Recipe.load(str(beside)) if beside.is_file() else None


@app.command()
def evaluate(run: RunArgument, data_name: DataOption = None, json: JsonOption = False) -> None:
    """Loss and metrics of a trained model on a data set's test images."""
    model, recipe = run_and_recipe(run)
    if recipe is None and data_name is None:
        raise typer.BadParameter("a model file has no recipe beside it: name the data, --data NAME")
    chosen = recipe or chosen_recipe("seed", [])
    if data_name is not None:
        chosen.set("data.name", located(data_name))
    _, (test_images, test_labels) = load_images(chosen)
    logs = model.evaluate(test_images, test_labels, verbose=0, return_dict=True)
    if json:
        print(dumps(logs))
        return
    for metric, value in logs.items():
        print(f"test {metric}: {value:.4f}")


def read_images(path: Path, shape: Sequence[int | None], resize: bool) -> np.ndarray:
    """Pixels from a .npy file, or from one picture (Pillow), for a model of that input shape."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix == ".npy":
        try:
            return np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} is no array file: {error}") from None
    try:
        with opened(path) as picture:
            height, width = shape[:2] if resize and None not in shape[:2] else picture.size[::-1]
        form = Form(height or 1, width or 1, "grayscale" if shape[-1] == 1 else "rgb")
        return decoded(path, form)[None]
    except ValueError as error:
        raise ValueError(
            f"{path} is neither a .npy array nor a picture Pillow knows: {error}"
        ) from None


@app.command()
def predict(
    run: RunArgument,
    source: Annotated[Path, typer.Argument(help="A .npy array of images, or a picture.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Also write the probabilities, .npy; with --samples mean and spread."),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=2, help="Passes with dropout on: each probability's mean and spread."),
    ] = None,
) -> None:
    """The most probable class of each image, one line an image: index, class, probability."""
    model, recipe = run_and_recipe(run)
    section: dict[str, Any] = recipe.table["data"] if recipe else {"scale": 255.0}
    # Pictures that were resized for the training are resized here too.
    pixels = read_images(
        source, (model.input_shape or (None, None, None, 1))[1:], "image_size" in section
    )
    scale = section["scale"]
    # Floating-point images are taken as scaled already.
    inputs = images(pixels, scale if pixels.dtype.kind in "ui" else 1.0)
    found = model.predict(inputs, samples=samples)
    outputs, spread = (found, None) if samples is None else found
    names = section.get("classes") or data.CLASS_NAMES.get(str(section.get("name")))
    for index, row in enumerate(outputs):
        best = int(row.argmax())
        label = names[best] if names and len(names) == len(row) else str(best)
        unsure = "" if spread is None else f"\t±{spread[index][best]:.4f}"
        print(f"{index}\t{label}\t{row[best]:.4f}{unsure}")
    if out is not None:
        np.save(out, outputs if spread is None else np.stack([outputs, spread]))


@app.command()
def export(
    run: RunArgument,
    path: Annotated[Path, typer.Argument(help=f"The file, by its ending: {', '.join(FORMATS)}.")],
) -> None:
    """Write a trained model for other programs: weights, torch.export's program, or ONNX."""
    if path.suffix not in FORMATS:
        raise typer.BadParameter(f"the file must end in {', '.join(FORMATS)}, got {path.name!r}")
    export_model(run_and_recipe(run)[0], path)
    print(f"written: {path}")


@app.command()
def explain(
    run: Annotated[Path | None, typer.Argument(help="A run folder or a model file.")] = None,
    recipe: RecipeOption = "seed",
    batch_size: Annotated[int, typer.Option(min=1, help="Images in the batch.")] = 64,
) -> None:
    """The kernel chosen for each layer and pass, and why."""
    import pyconvopt

    model = (
        run_and_recipe(run)[0]
        if run
        else chosen_recipe(recipe, []).model((28, 28, 1), num_classes=10)
    )
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
