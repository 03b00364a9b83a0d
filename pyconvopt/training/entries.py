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
            self.train: Callable[[int], tuple[History, bool]] = self.train_recipe
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
        history, failed = self.train(seed)
        return RunRecord.of(self.name, self.fingerprint, seed, history, failed)

    def train_recipe(self, seed: int) -> tuple[History, bool]:
        """The recipe with that seed; whether it failed."""
        recipe = Recipe(self.recipe.name, deepcopy(self.recipe.table))
        recipe.set("fit.seed", seed)
        train, test = load_images(recipe)
        options = {"verbose": 0, **self.fit}
        model, history = fit_recipe(recipe, train, test, **options)
        return history, model.trainer().failure is not None

    def train_made(self, seed: int) -> tuple[History, bool]:
        """What the function returns for that seed, fitted if it is not yet."""
        made = self.factory(seed)
        if isinstance(made, History):
            return made, False
        trainer = made if isinstance(made, Trainer) else made.trainer()
        options = {"verbose": 0, "validation": self.validation, "seed": seed, **self.fit}
        history = trainer.fit(self.data, **options)
        return history, trainer.failure is not None


def fingerprint(recipe: Any, fit: Mapping[str, Any]) -> str:
    """What tells a recipe from another: a hash of all but its seed. Functions are told by name alone."""
    if not isinstance(recipe, Recipe):
        return "function"
    table = deepcopy(recipe.table)
    table["fit"].pop("seed")
    text = json.dumps([table, {key: repr(value) for key, value in fit.items()}], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
