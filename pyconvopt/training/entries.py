"""The entries of a comparison: ways to train, each ready to be run with a seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch

from pyconvopt.training.history import History
from pyconvopt.training.recipes import Recipe
from pyconvopt.training.results import RunRecord
from pyconvopt.training.run import fit_recipe, load_images
from pyconvopt.training.trainer import Trainer


class Entry:
    """One way to train, ready to be run with a seed."""

    def __init__(
        self, name: str, spec: Any, data: Any, validation: Any, fit: Mapping[str, Any]
    ) -> None:
        self.name, self.data, self.validation, self.fit = name, data, validation, fit
        self.recipe = Recipe.load(spec) if isinstance(spec, str) else spec
        if isinstance(self.recipe, Recipe):
            self.train: Callable[[int], History] = self.train_recipe
        elif callable(spec):
            self.factory, self.train = spec, self.train_made
        else:
            raise TypeError(
                f"entry {name!r} must be a Recipe or a function of the seed, got {spec!r}"
            )
        self.fingerprint = fingerprint(self.recipe, fit)

    def run(self, seed: int) -> RunRecord:
        """Train once."""
        torch.manual_seed(seed)
        history = self.train(seed)
        numbers = {name: list(map(float, each)) for name, each in history.history.items()}
        return RunRecord(self.name, self.fingerprint, seed, list(history.seconds), numbers)

    def train_recipe(self, seed: int) -> History:
        """The recipe with that seed."""
        recipe = Recipe(self.recipe.name, deepcopy(self.recipe.table))
        recipe.set("fit.seed", seed)
        train, test = load_images(recipe)
        options = {"verbose": 0, **self.fit}
        return fit_recipe(recipe, train, test, **options)[1]

    def train_made(self, seed: int) -> History:
        """What the function returns for that seed, fitted if it is not yet."""
        made = self.factory(seed)
        if isinstance(made, History):
            return made
        trainer = made if isinstance(made, Trainer) else made.trainer()
        options = {"verbose": 0, "validation": self.validation, "seed": seed, **self.fit}
        return trainer.fit(self.data, **options)


def fingerprint(recipe: Any, fit: Mapping[str, Any]) -> str:
    """What tells a recipe from another: a hash of all but its seed. Functions are told by name alone."""
    if not isinstance(recipe, Recipe):
        return "function"
    table = deepcopy(recipe.table)
    table["fit"].pop("seed")
    text = json.dumps([table, {key: repr(value) for key, value in fit.items()}], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
