"""What several commands share: options, and which of several processes runs a command."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from pyconvopt.data import load_named
from pyconvopt.data.sources import is_known, located
from pyconvopt.json_text import to_json
from pyconvopt.training.recipes import Recipe, known_names, parse_value


def recipe_names(incomplete: str) -> list[str]:
    """The recipes whose names begin so, for the shell's completion."""
    return [name for name in known_names() if name.startswith(incomplete)]


DataOption = Annotated[
    str | None, typer.Option("--data", help="A data set, a folder of pictures, or an .npz file.")
]
RunArgument = Annotated[Path, typer.Argument(help="A run folder, or a model file.")]
ScaleOption = Annotated[
    float | None,
    typer.Option("--scale", help="What pixels are divided by, for a file that does not say it."),
]
RecipeOption = Annotated[
    str,
    typer.Option("--recipe", help="A recipe's name, or a .toml file.", autocompletion=recipe_names),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Change a recipe's value: key=value.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def examples(*commands: str) -> str:
    """The end of a command's --help; \\b keeps its lines as they are."""
    return "\n".join(["\b", "Examples:", *(f"  pyconvopt {command}" for command in commands)])


def is_first_process() -> bool:
    """Whether this is the first of the processes that `torchrun` started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def first_process_only(command: Callable[..., None]) -> Callable[..., None]:
    """The command as the first of several processes runs it; the others have nothing to do."""

    @wraps(command)
    def run(*arguments: object, **options: object) -> None:
        if is_first_process():
            command(*arguments, **options)

    return run


@contextmanager
def wrong_usage() -> Iterator[None]:
    """Within, a ValueError is wrong usage, exit status 2."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def print_json(found: Any) -> None:
    """Print what a command found as JSON."""
    print(to_json(found))


def chosen_recipe(recipe: str, changes: list[str]) -> Recipe:
    """A recipe with its --set key=value changes; a wrong one is wrong usage."""
    with wrong_usage():
        chosen = Recipe.load(recipe)
        values = {}
        for change in changes:
            key, equals, value = change.partition("=")
            if not equals:
                raise ValueError(f"--set takes key=value, got {change!r}")
            values[key.strip()] = parse_value(value.strip())
        chosen.change(values)
    return chosen


def recipe_to_train(recipe: str, data: str | None, changes: list[str]) -> Recipe:
    """A recipe with its --data and other changes, whose data and optimiser there are."""
    chosen = chosen_recipe(recipe, data_change(data) + changes)
    require_data(chosen.table["data"]["name"])
    with wrong_usage():
        chosen.check_optimizer()
    return chosen


def require_data(name: str) -> None:
    """Refuse data that are neither known nor there, as wrong usage."""
    if not is_known(name) and not Path(name).exists():
        with wrong_usage():
            load_named(name)  # says which there are


def data_change(name: str | None) -> list[str]:
    """--data as a change of the recipe."""
    return [] if name is None else [f"data.name={dumps(located(name))}"]
