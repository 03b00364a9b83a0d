"""The commands of `pyconvopt`: a few lines each over the library; errors are `cli`'s business."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Annotated

import torch
import typer

import pyconvopt
from pyconvopt import cli_experiments, cli_machine, cli_trained
from pyconvopt.cli_options import (
    DataOption,
    JsonOption,
    RecipeOption,
    SetOption,
    chosen_recipe,
    data_change,
    examples,
    first_process_only,
    is_first_process,
    print_json,
    recipe_to_train,
)
from pyconvopt.cli_trained import file_of, model_of
from pyconvopt.training.recipes import known_names
from pyconvopt.training.run import RECIPE, default_folder, resume_run, run_recipe

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


@contextmanager
def told_how_to_go_on(folder: Path | None) -> Iterator[None]:
    """Within, whoever breaks off a run that has begun in the folder is told how it goes on."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if folder is not None and (folder / RECIPE).is_file() and is_first_process():
            going_on = f"pyconvopt train --resume {quote(str(folder))}"
            print(f"the run is not lost: {going_on} goes on with it", file=sys.stderr)
        raise


@app.command(
    epilog=examples(
        "train --data fashion-mnist --recipe seed",
        "train --data photos/ --recipe resnet18 --epochs 10 --set 'data.image_size=[64, 64]'",
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
        chosen = recipe_to_train(recipe, None, changes + (set or []))
        if out is None and "RANK" not in os.environ:  # of several processes the first one chooses
            out = default_folder(chosen)
        with told_how_to_go_on(out):
            result = run_recipe(chosen, out, verbose)
    elif changes or set or out is not None or recipe != "seed":
        raise typer.BadParameter(
            "--resume goes on with the run as it was; it takes no other option"
        )
    else:
        with told_how_to_go_on(resume):
            result = resume_run(resume, verbose)
    if not is_first_process():
        return
    if json:
        print_json({"folder": str(result.folder), "test": result.test})
        return
    print(f"run folder: {result.folder}")
    for name, value in result.test.items():
        if name not in ("loss", "accuracy"):
            print(f"test {name}: {value:.4f}")
    last = "accuracy" if "accuracy" in result.test else "loss"
    print(f"test {last}: {result.test[last]:.4f}")


app.command(
    epilog=examples("evaluate runs/first", "evaluate model.safetensors --data fashion-mnist")
)(cli_trained.evaluate)
app.command(
    epilog=examples(
        "predict runs/first shoe.png --resize", "predict runs/first images.npy --out p.npy"
    )
)(cli_trained.predict)
app.command(
    epilog=examples(
        "pictures runs/first", "pictures model.safetensors --data fashion-mnist --out drawn"
    )
)(cli_trained.pictures)
app.command(epilog=examples("export runs/first model.onnx", "export runs/first model.pt2 --json"))(
    cli_trained.export
)


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
    """The kernel chosen for each layer and pass, and why; of a recipe, for grey images of 28×28."""
    if run and (set or recipe != "seed"):
        raise typer.BadParameter(
            "a trained model is explained as it is, without --recipe and --set"
        )
    if run and str(run) in known_names() and not file_of(run).exists():
        raise typer.BadParameter(
            f"there is no run folder or model file {run}; the recipe is --recipe {run}"
        )
    model = (
        model_of(run)
        if run
        else chosen_recipe(recipe, set or []).model((28, 28, 1), num_classes=10)
    )
    shape = [size or 32 for size in (model.input_shape or ())[1:]]
    explanation = pyconvopt.explain(model, torch.zeros(batch_size, *shape))
    print_json(explanation.rows) if json else print(explanation)


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
