"""Commands about a trained model: what it answers, how well, pictures of it, and files for others."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from pyconvopt import data, models
from pyconvopt.cli_options import (
    DataOption,
    JsonOption,
    RunArgument,
    chosen_recipe,
    first_process_only,
)
from pyconvopt.data.image_folder import Form, decoded, opened
from pyconvopt.data.sources import located
from pyconvopt.files import write_whole
from pyconvopt.models.export import FORMATS
from pyconvopt.models.export import export as export_model
from pyconvopt.training.history import History
from pyconvopt.training.recipes import Recipe
from pyconvopt.training.run import HISTORY, RECIPE, WEIGHTS, Pair, images, load_images


def folder_of(run: Path) -> Path:
    """The folder of a run, or that a model file lies in."""
    return run if run.is_dir() else run.parent


def run_and_recipe(run: Path) -> tuple[models.Sequential, Recipe | None]:
    """The model of a run folder or a model file, and the recipe that lies beside it."""
    file = run / WEIGHTS if run.is_dir() else run
    beside = folder_of(run) / RECIPE
    return models.load(file), Recipe.load(str(beside)) if beside.is_file() else None


def on_test_data(
    run: Path, data_name: str | None
) -> tuple[models.Sequential, Mapping[str, Any], Pair]:
    """A model, the [data] of its recipe, and the test images with their labels."""
    model, recipe = run_and_recipe(run)
    if recipe is None and data_name is None:
        raise typer.BadParameter("a model file has no recipe beside it: name the data, --data NAME")
    chosen = recipe or chosen_recipe("seed", [])
    if data_name is not None:
        chosen.set("data.name", located(data_name))
    _, test = load_images(chosen)
    return model, chosen.table["data"], test


def class_names(section: Mapping[str, Any], classes: int) -> Sequence[str] | None:
    """What a recipe's data call so many classes, if they say it."""
    names = section.get("classes") or data.CLASS_NAMES.get(str(section.get("name")))
    return names if names and len(names) == classes else None


@first_process_only
def evaluate(run: RunArgument, data_name: DataOption = None, json: JsonOption = False) -> None:
    """Loss and metrics of a trained model on a data set's test images."""
    model, _, (images, labels) = on_test_data(run, data_name)
    logs = model.evaluate(images, labels, verbose=0, return_dict=True)
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


@first_process_only
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
    json: JsonOption = False,
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
    labels = class_names(section, outputs.shape[-1]) or range(outputs.shape[-1])
    rows: list[dict[str, Any]] = [
        {"index": index, "class": str(labels[best]), "probability": float(outputs[index, best])}
        for index, best in enumerate(outputs.argmax(-1))
    ]
    if spread is not None:
        for row, best in zip(rows, outputs.argmax(-1), strict=True):
            row["spread"] = float(spread[row["index"], best])
    if json:
        print(dumps(rows))
    else:
        for row in rows:
            unsure = "" if spread is None else f"\t±{row['spread']:.4f}"
            print(f"{row['index']}\t{row['class']}\t{row['probability']:.4f}{unsure}")
    if out is not None:
        content = io.BytesIO()
        np.save(content, outputs if spread is None else np.stack([outputs, spread]))
        write_whole(out, content.getvalue())


@first_process_only
def pictures(
    run: RunArgument,
    data_name: DataOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Their folder; default: pictures/ in the run folder.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Draw a trained model on the test images: curves, mistakes, filters, histograms and more."""
    # matplotlib is drawn with, not started with.
    from pyconvopt.pictures import write_all

    model, section, (pixels, labels) = on_test_data(run, data_name)
    record = folder_of(run) / HISTORY
    paths = write_all(
        model,
        pixels[:],  # those on the disk are read: several pictures need them all
        labels,
        folder_of(run) / "pictures" if out is None else out,
        class_names=class_names(section, (model.output_shape or (None,))[-1] or 0),
        history=History.from_json(record) if record.is_file() else None,
    )
    if json:
        print(dumps({"paths": [str(path) for path in paths]}))
        return
    for path in paths:
        print(f"written: {path}")


@first_process_only
def export(
    run: RunArgument,
    path: Annotated[Path, typer.Argument(help=f"The file, by its ending: {', '.join(FORMATS)}.")],
    json: JsonOption = False,
) -> None:
    """Write a trained model for other programs: weights, torch.export's program, or ONNX."""
    if path.suffix not in FORMATS:
        raise typer.BadParameter(f"the file must end in {', '.join(FORMATS)}, got {path.name!r}")
    export_model(run_and_recipe(run)[0], path)
    if json:
        print(dumps({"path": str(path), "bytes": path.stat().st_size}))
        return
    print(f"written: {path}")
