"""Commands that train many times to answer a question: which rate, which settings, which recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import torch
import typer

from pyconvopt import registry
from pyconvopt.cli_options import (
    DataOption,
    JsonOption,
    RecipeOption,
    SetOption,
    is_first_process,
    recipe_to_train,
    wrong_usage,
)
from pyconvopt.extras import require
from pyconvopt.files import write_whole
from pyconvopt.pictures.drawing import picture_format
from pyconvopt.training import compare as compare_runs
from pyconvopt.training import find_lr as range_test
from pyconvopt.training import sweep as halve
from pyconvopt.training.candidates import grid
from pyconvopt.training.find_lr import RULES
from pyconvopt.training.recipes import Recipe, parse_value, toml
from pyconvopt.training.run import load_images
from pyconvopt.training.sweep import SAMPLERS, TRIALS
from pyconvopt.training.sweep_recipes import changed, ends_of


def find_lr(
    data: DataOption = None,
    recipe: RecipeOption = "seed",
    set: SetOption = None,
    low: Annotated[float, typer.Option(help="The first learning rate.")] = 1e-6,
    high: Annotated[float, typer.Option(help="The last learning rate.")] = 10.0,
    steps: Annotated[int, typer.Option(min=10, help="Steps between them.")] = 100,
    rule: Annotated[str, typer.Option(help=f"One of {', '.join(RULES)}.")] = "valley",
    plot: Annotated[Path | None, typer.Option(help="Also write the picture, .png.")] = None,
    json: JsonOption = False,
) -> None:
    """The learning-rate range test on a recipe; the last line printed is the rate to use."""
    chosen = recipe_to_train(recipe, data, set or [])
    with wrong_usage():
        registry.find("rule", RULES, rule)
        if not 0 < low < high:
            raise ValueError(f"the rates must grow from --low > 0 to --high, got {low} and {high}")
        if plot is not None:
            picture_format(plot)  # now, not after the test
    settings = chosen.table["fit"]
    torch.manual_seed(settings["seed"])
    train, _ = load_images(chosen)
    test = range_test(
        chosen.model_for(*train),
        chosen.batches(*train),
        low=low,
        high=high,
        steps=steps,
        rule=rule,
    )
    if not is_first_process():
        return
    # What was found first: it is not lost if the disk is full.
    if json:
        print(test.to_json())
    else:
        for name in RULES:
            print(f"{name}: {test.rate(name):g}")
        print(f"learning rate: {test.suggestion:g}", flush=True)
    if plot is not None:
        test.plot(plot)


def values_of(changes: Sequence[str]) -> dict[str, Any]:
    """{key: [values]}, or {key: range}, from key=[values] texts."""
    space = {}
    for change in changes:
        key, equals, text = change.partition("=")
        value = parse_value(text.strip())
        if not equals or not isinstance(value, (list, dict)):
            raise typer.BadParameter(
                f"--over takes key=[value, value], such as compile.learning_rate=[0.01, 0.001], or "
                f"for optuna key={{low = 0.001, high = 0.1}}, got {change!r}"
            )
        space[key.strip()] = value
    return space


def check_candidates(recipe: Recipe, space: dict[str, Any], sampler: str) -> None:
    """Refuse a sampler that there is not, and candidates that the recipe cannot be."""
    registry.find("sampler", dict.fromkeys(SAMPLERS), sampler)
    lists = space if sampler == "grid" else {key: ends_of(each) for key, each in space.items()}
    for settings in grid(lists):
        changed(recipe, settings).check_optimizer()


def sweep(
    over: Annotated[
        list[str], typer.Option(help="What to try: key=[value, value], may be given again.")
    ],
    data: DataOption = None,
    recipe: RecipeOption = "seed",
    set: SetOption = None,
    sampler: Annotated[str, typer.Option(help=f"One of {', '.join(SAMPLERS)}.")] = "grid",
    trials: Annotated[
        int | None, typer.Option(min=1, help=f"Candidates that optuna draws; default {TRIALS}.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of the best.")] = None,
    monitor: Annotated[str, typer.Option(help="What decides.")] = "val_accuracy",
    out: Annotated[Path | None, typer.Option(help="Also write the candidates, .csv.")] = None,
    json: JsonOption = False,
) -> None:
    """Try settings of a recipe by successive halving; the last line printed are the best ones."""
    chosen = recipe_to_train(recipe, data, set or [])
    space = values_of(over)
    with wrong_usage():
        check_candidates(chosen, space, sampler)
        if sampler == "grid" and trials is not None:
            raise ValueError("--trials goes with --sampler optuna; a grid has all combinations")
    result = halve(
        chosen,
        space,
        sampler=sampler,
        trials=trials,
        epochs=epochs,
        monitor=monitor,
        verbose=int(not json),
    )
    if not is_first_process():
        return
    if json:
        print(result.to_json())
    else:
        print(result.markdown())
        print(f"best: {as_options(result.best)}", flush=True)
    if out is not None:
        result.to_csv(out)


def as_options(settings: dict[str, Any]) -> str:
    """Settings of a recipe as a shell takes them.

    >>> print(as_options({'compile.learning_rate': 0.01, 'compile.loss': {'name': 'mse'}}))
    --set compile.learning_rate=0.01 --set 'compile.loss={name = "mse"}'
    """
    return " ".join(f"--set {quote(f'{key}={toml(value)}')}" for key, value in settings.items())


def compare(
    recipes: Annotated[
        list[str],
        typer.Argument(help="Recipes, [name=]recipe[,key=value...]; the first is compared with."),
    ],
    data: DataOption = None,
    set: SetOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each.")] = 3,
    target: Annotated[float | None, typer.Option(help="Tell the time to reach this.")] = None,
    monitor: Annotated[str, typer.Option(help="What is compared.")] = "val_accuracy",
    out: Annotated[
        Path, typer.Option(help="Folder; runs that lie there are not run again.")
    ] = Path("runs/compare"),
    html: Annotated[
        bool, typer.Option("--html", help="Also write comparison.html, a page on its own.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Run recipes with several seeds each, and write a table and a picture of the comparison."""
    entries = {}
    for text in recipes:
        name, entry = named_recipe(text, data, set or [])
        if name in entries:
            raise typer.BadParameter(f"two recipes are called {name!r}: write name=recipe")
        entries[name] = entry
    require("matplotlib", "drawing a comparison")
    result = compare_runs(
        entries,
        seeds,
        monitor=monitor,
        target=target,
        results=out / "results.csv",
        verbose=int(not json),
    )
    if not is_first_process():
        return
    print(result.to_json() if json else result.markdown(), flush=True)
    result.to_csv(out / "summary.csv")
    write_whole(out / "summary.md", result.markdown() + "\n")
    result.plot(out / "comparison.png")
    if html:
        result.to_html(out / "comparison.html")


def named_recipe(text: str, data: str | None, changes: list[str]) -> tuple[str, Recipe]:
    """A recipe and what it is called, from [name=]recipe[,key=value...]."""
    head, *own = split_at_commas(text)
    name, equals, recipe = head.partition("=")
    chosen = recipe_to_train(recipe if equals else head, data, [*changes, *own])
    return (name if equals else text if own else chosen.name), chosen


def split_at_commas(text: str) -> list[str]:
    """The parts between commas, but for those within brackets and quotes.

    >>> split_at_commas('k5=seed,layers.0.kernel_size=[5,5],compile.loss="a,b"')
    ['k5=seed', 'layers.0.kernel_size=[5,5]', 'compile.loss="a,b"']
    """
    found, depth, quoted_by = [""], 0, ""
    for each in text:
        if quoted_by:
            quoted_by = "" if each == quoted_by else quoted_by
        elif each in "\"'":
            quoted_by = each
        else:
            depth += (each in "[{") - (each in "]}")
        if each == "," and not depth and not quoted_by:
            found.append("")
        else:
            found[-1] += each
    return found
