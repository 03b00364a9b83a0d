"""The commands of `pyconvopt`: a few lines each over the library; errors are `cli`'s business."""

from __future__ import annotations

import io
from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

import pyconvopt
from pyconvopt import cli_experiments, cli_machine, data, models
from pyconvopt.cli_options import (
    DataOption,
    JsonOption,
    RecipeOption,
    RunArgument,
    SetOption,
    chosen_recipe,
    data_change,
    examples,
    first_process_only,
    is_first_process,
)
from pyconvopt.data.image_folder import Form, decoded, opened
from pyconvopt.data.sources import located
from pyconvopt.files import write_whole
from pyconvopt.models.export import FORMATS
from pyconvopt.models.export import export as export_model
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
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="PYCONVOPT_DEBUG=1 in the environment shows the whole traceback of an error.",
)


def show_version(wanted: bool) -> None:
    """What --version does."""
    if wanted:
        print(f"pyconvopt {pyconvopt.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Train convolutional networks on this machine's fast kernels."""


@app.command(
    epilog=examples(
        "train --data fashion-mnist --recipe seed",
        "train --data photos/ --recipe resnet18 --epochs 10 --set fit.batch_size=32",
        "train --resume runs/seed-20260101-120000",
    )
)
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
    if not is_first_process():
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


@app.command(
    epilog=examples("evaluate runs/first", "evaluate model.safetensors --data fashion-mnist")
)
@first_process_only
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


@app.command(
    epilog=examples("predict runs/first shoe.png", "predict runs/first images.npy --out p.npy")
)
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
    names = section.get("classes") or data.CLASS_NAMES.get(str(section.get("name")))
    labels = names if names and len(names) == outputs.shape[-1] else range(outputs.shape[-1])
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


@app.command(epilog=examples("export runs/first model.onnx", "export runs/first model.pt2 --json"))
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


@app.command(
    epilog=examples(
        "explain runs/first",
        "explain --recipe resnet18 --batch-size 32",
        "explain --set layers.0.filters=64",
    )
)
@first_process_only
def explain(
    run: Annotated[Path | None, typer.Argument(help="A run folder or a model file.")] = None,
    recipe: RecipeOption = "seed",
    batch_size: Annotated[int, typer.Option(min=1, help="Images in the batch.")] = 64,
    set: SetOption = None,
    json: JsonOption = False,
) -> None:
    """The kernel chosen for each layer and pass, and why."""
    if run and (set or recipe != "seed"):
        raise typer.BadParameter(
            "a trained model is explained as it is, without --recipe and --set"
        )
    model = (
        run_and_recipe(run)[0]
        if run
        else chosen_recipe(recipe, set or []).model((28, 28, 1), num_classes=10)
    )
    shape = [size or 32 for size in (model.input_shape or ())[1:]]
    explanation = pyconvopt.explain(model, torch.zeros(batch_size, *shape))
    print(dumps(explanation.rows) if json else explanation)


app.command(
    "find-lr",
    epilog=examples("find-lr --recipe seed --plot test.png", "find-lr --set compile.optimizer=sgd"),
)(cli_experiments.find_lr)
app.command(
    epilog=examples(
        "sweep --over 'compile.learning_rate=[0.0003, 0.001, 0.003]'",
        "sweep --over 'fit.batch_size=[32, 128]' --over 'compile.optimizer=[\"sgd\", \"adam\"]'",
        "sweep --sampler optuna --over 'compile.learning_rate={low = 1e-4, high = 0.1, log = true}'",
    )
)(cli_experiments.sweep)
app.command(
    epilog=examples(
        "compare seed fast --seeds 5 --target 0.9 --html",
        "compare seed 'wide=seed,layers.0.filters=64' --out runs/width",
    )
)(cli_experiments.compare)
app.command(epilog=examples("bench", "bench resnet18 --batch-size 16 --json"))(cli_machine.bench)
app.command(epilog=examples("doctor", "doctor --json"))(cli_machine.doctor)
