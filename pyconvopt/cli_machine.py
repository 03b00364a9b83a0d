"""Commands about the machine: how fast it trains, and what is installed on it."""

from __future__ import annotations

import warnings
from typing import Annotated

import typer

from pyconvopt import benchmark, machine
from pyconvopt.cli_options import JsonOption, first_process_only, print_json


@first_process_only
def bench(
    model: Annotated[
        str, typer.Argument(help="'article', or an architecture such as resnet18.")
    ] = "article",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images a step; default 64, 8 of an architecture.")
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=1, help="Height and width; default 28, 224 of an architecture."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each.")] = 7,
    seconds: Annotated[float, typer.Option(min=0.01, help="How long a turn is.")] = 0.5,
    json: JsonOption = False,
) -> None:
    """Time a training step on this machine, with pyconvopt and with torch, in turns."""
    problem = benchmark.Problem.of(model, batch_size, image_size)
    if machine.load() > machine.processors():
        warnings.warn(
            f"other programs are busy ({machine.load():.1f} want to run on {machine.processors()} "
            "processors): the times mean little",
            stacklevel=1,
        )
    result = benchmark.measure(problem, rounds, seconds)
    print_json(result.table()) if json else print(result.markdown())


@first_process_only
def doctor(json: JsonOption = False) -> None:
    """Versions, kernels, threads, and what makes training slow: send it along with a bug report."""
    found = machine.facts()
    print_json(found) if json else print(machine.report(found))
