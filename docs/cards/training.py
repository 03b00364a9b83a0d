"""Runs of a recipe with changes, for the method cards.

The same seed means the same first weights (of like models), the same order of the images and the same
numbers in every repetition, so the runs of the baseline serve all cards, whenever they were made.

A change is a key of the recipe, or one of `MAKERS`: what a recipe cannot say, by name and settings as a
saved model has them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from docs.cards.table import SOURCES, Study, Way
from pyconvopt import (
    __version__,
    averaging,
    callbacks,
    losses,
    models,
    optimizers,
    registry,
    schedules,
)
from pyconvopt.data import ArrayLoader, augment
from pyconvopt.files import write_whole
from pyconvopt.training import Comparison, History, compare
from pyconvopt.training.recipes import Recipe
from pyconvopt.training.results import ResultsFile
from pyconvopt.training.run import Pair, load_images

Described = Mapping[str, Any]


def by_name(module: Any, described: Described) -> Any:
    """An object of a module's class of that name, with its settings."""
    classes = {name: getattr(module, name) for name in module.__all__}
    return registry.make("method", classes, described)


def optimizer(described: Described) -> Callable[..., torch.optim.Optimizer]:
    """What makes an optimiser of a model's parameters."""
    return partial(optimizers.get, described["name"], **described.get("config", {}))


# What goes to `compile` beside the recipe's own settings: made anew for each run.
MAKERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "optimizer": lambda value: {"optimizer": optimizer(value)},
    "schedule": lambda value: {"schedule": schedules.get(value)},
    "loss": lambda value: {"loss": losses.get(value)},
    "averaging": lambda value: {"callbacks": [by_name(averaging, value)]},
    "callback": lambda value: {"callbacks": [by_name(callbacks, value)]},
}
# What is done with the data and the layers.
OTHERS = ("augment", "insert", "images")


def changed_recipe(way: Way) -> Recipe:
    """The recipe with those changes that a recipe can have, and with the layers inserted.

    >>> recipe = changed_recipe(Way('narrow', {'layers.0,2.filters': 8, 'insert': [
    ...     {'before': 6, 'type': 'Dropout', 'rate': 0.5}]}))
    >>> [layer.get('filters', layer.get('rate')) for layer in recipe.table['layers']][:7]
    [8, None, 8, None, 64, None, 0.5]
    """
    recipe = Recipe.load(SOURCES[way.recipe])
    for key, value in way.changes.items():
        if key in MAKERS or key in OTHERS:
            continue
        section, *path = key.split(".")
        places = path[0].split(",") if section == "layers" and path else [""]
        for place in places:
            recipe.set(".".join([section, place, *path[1:]]) if place else key, value)
    if "insert" in way.changes:
        recipe.table["layers"] = with_inserted(recipe.table["layers"], way.changes["insert"])
    return recipe


def with_inserted(layers: Sequence[Described], inserted: Sequence[Described]) -> list[Described]:
    """The layers, and between them the inserted ones, each before the layer it names.

    Errors: ValueError for one before a layer that there is not.
    """
    longer = []
    for index, layer in enumerate(layers):
        longer += [
            {name: value for name, value in each.items() if name != "before"}
            for each in inserted
            if each["before"] == index
        ]
        longer.append(layer)
    if len(longer) != len(layers) + len(inserted):
        raise ValueError(f"`insert` names a layer that the recipe does not have: {inserted}")
    return longer


@lru_cache(maxsize=1)
def arrays(recipe: str) -> tuple[Pair, Pair]:
    """A recipe's data set, read once."""
    return load_images(Recipe.load(SOURCES[recipe]))


def prepared(way: Way, shape: tuple[int, ...]) -> tuple[Recipe, models.Sequential]:
    """The changed recipe and its model, compiled with all that the changes ask for."""
    recipe = changed_recipe(way)
    model = recipe.model(shape, num_classes=10)
    options = dict(recipe.table["compile"])
    for key, make in MAKERS.items():
        if key in way.changes:
            options |= make(way.changes[key])
    model.compile(**options)
    return recipe, model


def train(way: Way, seed: int, validate: bool = True) -> History:
    """One run."""
    (x, y), held_out = arrays(way.recipe)
    count = way.changes.get("images", len(x))
    recipe, model = prepared(way, x.shape[1:])
    model.adapt(x[:count])
    settings = recipe.table["fit"]
    steps = [by_name(augment, each) for each in way.changes.get("augment", [])]
    loader = ArrayLoader(
        x[:count], y[:count], settings["batch_size"], shuffle=True, seed=seed, augment=steps or None
    )
    validation = held_out if validate else None
    return model.fit(loader, epochs=settings["epochs"], validation_data=validation, verbose=0)


# --- a card's runs, and where they are kept -------------------------------------------------------


def this_machine() -> dict[str, Any]:
    """The machine that runs are made on; the load of the moment is left out."""
    found = {name: value for name, value in machine.describe().items() if name != "load_before"}
    return {**found, "torch": torch.__version__}


def claim(results: Path, key: str, **facts: Any) -> None:
    """Note the machine that a file's runs are made on, and what else they depend on.

    Errors: ValueError if they were begun on another: each file has one machine, which its page names.
    """
    file, here = (
        results / f"{key}.json",
        {"machine": this_machine() | facts, "pyconvopt": __version__},
    )
    if not (results / f"{key}.csv").exists():
        write_whole(file, json.dumps(here, indent=2) + "\n")
    elif described(results, key) != here:
        raise ValueError(
            f"the runs of {key} were begun on {described(results, key)}, and this is {here}: end "
            f"them there, or remove {results / key}.csv"
        )


def described(results: Path, key: str) -> dict[str, Any]:
    """The machine and the version of a card's runs."""
    return json.loads((results / f"{key}.json").read_text("utf-8"))


def run_study(study: Study, results: Path, seeds: int, budget: Mapping[str, Any]) -> None:
    """Run what is not there yet: the baseline, which cards of one length share, and the ways.

    A baseline that is complete serves the ways of another machine, too: there it would differ by
    rounding only, which moves a run no further than another seed does.
    """
    baseline, *ways = study.entries(budget)
    for key, entries in ((study.recipe, [baseline]), (study.file, ways)):
        there = ResultsFile(results / f"{key}.csv").runs
        if all((way.name, seed) in there for way in entries for seed in range(seeds)):
            continue
        claim(results, key)
        compare(
            {way.name: partial(train, way) for way in entries},
            seeds,
            results=results / f"{key}.csv",
        )


def finished(study: Study, results: Path, budget: Mapping[str, Any]) -> Comparison | None:
    """The runs there are, under the ways' labels; None without any of the baseline or of a way."""
    kept = {
        **ResultsFile(results / f"{study.recipe}.csv").runs,
        **ResultsFile(results / f"{study.file}.csv").runs,
    }
    baseline, *ways = (
        (way.label, {seed: record for (name, seed), record in kept.items() if name == way.name})
        for way in study.entries(budget)
    )
    runs = dict([baseline, *(each for each in ways if each[1])])
    return Comparison(runs) if baseline[1] and len(runs) > 1 else None


def way_is_known(way: Way) -> None:
    """Refuse a way with changes that nothing understands, before anything is run."""
    prepared(way, (28, 28, 1))
    for each in way.changes.get("augment", []):
        by_name(augment, each)
