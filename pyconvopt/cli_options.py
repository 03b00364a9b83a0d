"""What several commands share: options, and which of several processes runs a command."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from pyconvopt.data.sources import located
from pyconvopt.training.recipes import Recipe, parse_value

DataOption = Annotated[
    str | None, typer.Option("--data", help="A data set, a folder of pictures, or an .npz file.")
]
RunArgument = Annotated[Path, typer.Argument(help="A run folder, or a model file.")]
RecipeOption = Annotated[str, typer.Option("--recipe", help="A recipe's name, or a .toml file.")]
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


def data_change(name: str | None) -> list[str]:
    """--data as a change of the recipe."""
    return [] if name is None else [f"data.name={dumps(located(name))}"]
