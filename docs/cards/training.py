"""Runs of the recipe `seed` with changes, for the method cards.

The same seed means the same first weights (of like models), the same order of the images and the same
numbers in every repetition, so the runs of the baseline serve all cards, whenever they were made.

A change is a key of the recipe, or one of `MAKERS`: what a recipe cannot say, by name and settings as a
saved model has them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from docs.cards.table import BASELINE, Card, Way
from pyconvopt import __version__, averaging, losses, models, optimizers, registry, schedules
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
}
# What is done with the data and the layers.
OTHERS = ("augment", "insert", "images")


def changed_recipe(changes: Mapping[str, Any]) -> Recipe:
    """The recipe with those changes that a recipe can have, and with the layers inserted.

    >>> recipe = changed_recipe({'layers.0,2.filters': 8, 'insert': [
    ...     {'before': 6, 'type': 'Dropout', 'rate': 0.5}]})
    >>> [layer.get('filters', layer.get('rate')) for layer in recipe.table['layers']][:7]
    [8, None, 8, None, 64, None, 0.5]
    """
    recipe = Recipe.load(BASELINE)
    for key, value in changes.items():
        if key in MAKERS or key in OTHERS:
            continue
        section, *path = key.split(".")
        places = path[0].split(",") if section == "layers" and path else [""]
        for place in places:
            recipe.set(".".join([section, place, *path[1:]]) if place else key, value)
    inserted = changes.get("insert", [])
    layers = []
    for index, layer in enumerate(recipe.table["layers"]):
        layers += [
            {name: value for name, value in each.items() if name != "before"}
            for each in inserted
            if each["before"] == index
        ]
        layers.append(layer)
    if len(layers) != len(recipe.table["layers"]) + len(inserted):
        raise ValueError(f"`insert` names a layer that {BASELINE} does not have: {inserted}")
    recipe.table["layers"] = layers
    return recipe


@lru_cache(maxsize=1)
def arrays(name: str, scale: float) -> tuple[Pair, Pair]:
    """The data set, read once."""
    recipe = Recipe.load(BASELINE)
    recipe.table["data"] |= {"name": name, "scale": scale}
    return load_images(recipe)


def prepared(
    changes: Mapping[str, Any], shape: tuple[int, ...]
) -> tuple[Recipe, models.Sequential]:
    """The changed recipe and its model, compiled with all that the changes ask for."""
    recipe = changed_recipe(changes)
    model = recipe.model(shape)
    options = dict(recipe.table["compile"])
    for key, make in MAKERS.items():
        if key in changes:
            options |= make(changes[key])
    model.compile(**options)
    return recipe, model


def train(changes: Mapping[str, Any], seed: int, validate: bool = True) -> History:
    """One run."""
    source = Recipe.load(BASELINE).table["data"]
    (x, y), held_out = arrays(source["name"], source["scale"])
    count = changes.get("images", len(x))
    recipe, model = prepared(changes, x.shape[1:])
    settings = recipe.table["fit"]
    steps = [by_name(augment, each) for each in changes.get("augment", [])]
    loader = ArrayLoader(
        x[:count], y[:count], settings["batch_size"], shuffle=True, seed=seed, augment=steps or None
    )
    validation = held_out if validate else None
    return model.fit(loader, epochs=settings["epochs"], validation_data=validation, verbose=0)


# --- a card's runs, and where they are kept -------------------------------------------------------


def this_machine() -> dict[str, Any]:
    """What times depend on; the load of the moment is left out."""
    found = {name: value for name, value in machine.describe().items() if name != "load_before"}
    return {**found, "threads": torch.get_num_threads(), "torch": torch.__version__}


def claim(results: Path, key: str) -> None:
    """Note the machine that a file's runs are made on.

    Errors: ValueError if they were begun on another: what two machines give does not compare.
    """
    file, here = results / f"{key}.json", {"machine": this_machine(), "pyconvopt": __version__}
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


def run_card(card: Card, results: Path, seeds: int, budget: Mapping[str, Any]) -> None:
    """Run what is not there yet: the baseline, which cards of one length share, and the ways."""
    baseline, *ways = card.entries(budget)
    for key, entries in ((BASELINE, [baseline]), (card.key, ways)):
        claim(results, key)
        compare(
            {way.name: partial(train, way.changes) for way in entries},
            seeds,
            results=results / f"{key}.csv",
        )


def finished(card: Card, results: Path, budget: Mapping[str, Any]) -> Comparison | None:
    """The runs there are, under the ways' labels; None without any of the baseline or of a way."""
    kept = {
        **ResultsFile(results / f"{BASELINE}.csv").runs,
        **ResultsFile(results / f"{card.key}.csv").runs,
    }
    runs: dict[str, dict[int, Any]] = {}
    for way in card.entries(budget):
        found = {seed: record for (name, seed), record in kept.items() if name == way.name}
        if found or way.label == BASELINE:
            runs[way.label] = found
    return Comparison(runs) if runs[BASELINE] and len(runs) > 1 else None


def way_is_known(way: Way) -> None:
    """Refuse a way with changes that nothing understands, before anything is run."""
    prepared(way.changes, (28, 28, 1))
    for each in way.changes.get("augment", []):
        by_name(augment, each)
