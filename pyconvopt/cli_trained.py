"""Commands about a trained model: what it answers, how well, pictures of it, and files for others."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import numpy as np
import typer

from pyconvopt import data, models
from pyconvopt.cli_options import (
    DataOption,
    JsonOption,
    RunArgument,
    ScaleOption,
    first_process_only,
    print_json,
    require_data,
    wrong_usage,
)
from pyconvopt.data.image_folder import Form, decoded, opened
from pyconvopt.data.sources import located
from pyconvopt.files import write_whole
from pyconvopt.models.export import FORMATS
from pyconvopt.models.export import export as export_model
from pyconvopt.training.history import History
from pyconvopt.training.recipe_parts import check_value
from pyconvopt.training.recipes import Recipe
from pyconvopt.training.run import (
    HISTORY,
    RECIPE,
    WEIGHTS,
    Pair,
    images,
    kept_data,
    load_images,
)


def folder_of(run: Path) -> Path:
    """The folder of a run, or that a model file lies in."""
    return run if run.is_dir() else run.parent


def file_of(run: Path) -> Path:
    """The model file of a run folder, or the file itself."""
    return run / WEIGHTS if run.is_dir() else run


def model_of(run: Path) -> models.Sequential:
    """The model of a run folder or a model file."""
    file = file_of(run)
    if not file.exists() and (run / RECIPE).is_file():
        raise FileNotFoundError(
            f"the run in {run} has not ended, so there is no model yet: pyconvopt train --resume "
            f"{quote(str(run))} goes on with it"
        )
    return models.load(file)


def data_of(run: Path, scale: float | None = None) -> dict[str, Any]:
    """How a model's images are made: [data] of the recipe beside it, or what the file keeps of it.

    A run folder's recipe is the run's; a file may have been copied to where another one lies.
    `scale` (None: as it is said there) wins over both.
    """
    beside = folder_of(run) / RECIPE
    kept = None if run.is_dir() and beside.is_file() else kept_data(file_of(run))
    if kept is None and beside.is_file():
        kept = Recipe.load(str(beside)).table["data"]
    if scale is not None:
        with wrong_usage():
            check_value("data.scale", scale)
        return {**(kept or {}), "scale": scale}
    if kept is None:
        raise typer.BadParameter(
            f"{run} does not say what its pixels are divided by: give --scale, such as 255, or 1 if "
            "the model takes them as they are"
        )
    return kept


def on_test_data(
    run: Path, data_name: str | None, scale: float | None
) -> tuple[models.Sequential, Mapping[str, Any], Pair]:
    """A model, the [data] of its recipe, and the test images with their labels."""
    model, section = model_of(run), data_of(run, scale)
    if data_name is not None:
        require_data(data_name)
        section["name"] = located(data_name)
    if "name" not in section:
        raise typer.BadParameter("a model file has no recipe beside it: name the data, --data NAME")
    _, test = load_images(Recipe(run.name, {"data": section}))
    return model, section, test


def class_names(section: Mapping[str, Any], classes: int) -> Sequence[str] | None:
    """What a recipe's data call so many classes; one they do not have is called by its number."""
    names = section.get("classes") or data.CLASS_NAMES.get(str(section.get("name")))
    if not names:
        return None
    return [str(each) for each in names[:classes]] + [*map(str, range(len(names), classes))]


@first_process_only
def evaluate(
    run: RunArgument,
    data_name: DataOption = None,
    scale: ScaleOption = None,
    json: JsonOption = False,
) -> None:
    """Loss and metrics of a trained model on a data set's test images."""
    model, _, (images, labels) = on_test_data(run, data_name, scale)
    logs = model.evaluate(images, labels, verbose=0, return_dict=True)
    if json:
        print_json(logs)
        return
    for metric, value in logs.items():
        print(f"test {metric}: {value:.4f}")


def read_images(path: Path, shape: Sequence[int | None], resize: bool) -> np.ndarray:
    """Pixels from a .npy file, or from one picture (Pillow), for a model of that input shape."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; wanted one picture, or a .npy array of images")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix == ".npy":
        try:
            return np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} is no array file: {error}") from None
    try:
        with opened(path) as picture:
            width, height = picture.size
    except ValueError as error:
        raise ValueError(
            f"{path} is neither a .npy array nor a picture Pillow knows: {error}"
        ) from None
    sizes = shape[:2] if len(shape) == 3 else (None, None)
    form = Form(sizes[0] or height, sizes[1] or width, "grayscale" if shape[-1] == 1 else "rgb")
    if (form.height, form.width) != (height, width) and not resize:
        raise ValueError(
            f"{path} is {height}×{width}, the model takes {form.height}×{form.width}: --resize "
            "brings it to that size"
        )
    try:
        return decoded(path, form)[None]
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


@first_process_only
def predict(
    run: RunArgument,
    source: Annotated[Path, typer.Argument(help="A .npy array of images, or a picture.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Also write the probabilities, .npy; with --samples mean and spread."),
    ] = None,
    resize: Annotated[
        bool, typer.Option("--resize", help="Stretch a picture to the size the model takes.")
    ] = False,
    samples: Annotated[
        int | None,
        typer.Option(min=2, help="Passes with dropout on: each probability's mean and spread."),
    ] = None,
    scale: ScaleOption = None,
    json: JsonOption = False,
) -> None:
    """The most probable class of each image, one line an image: index, class, probability."""
    model, section = model_of(run), data_of(run, scale)
    # Pictures that were resized for the training are resized here too.
    pixels = read_images(
        source,
        (model.input_shape or (None, None, None, 1))[1:],
        resize or "image_size" in section,
    )
    found = model.predict(images(pixels, section["scale"]), samples=samples)
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
        print_json(rows)
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
    scale: ScaleOption = None,
    json: JsonOption = False,
) -> None:
    """Draw a trained model on the test images: curves, mistakes, filters, histograms and more."""
    # matplotlib is drawn with, not started with.
    from pyconvopt.pictures import write_all

    model, section, (pixels, labels) = on_test_data(run, data_name, scale)
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
        print_json({"paths": [str(path) for path in paths]})
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
    export_model(model_of(run), path)
    if json:
        print_json({"path": str(path), "bytes": path.stat().st_size})
        return
    print(f"written: {path}")
