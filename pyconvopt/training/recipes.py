"""Recipes: a whole training run as a TOML file.

    name           of the recipe; else it is called like its file
    [data]         name (a set, a folder, an .npz file; a path is taken from the folder one is in),
                   scale (pixels are divided by it); may:
                   damaged ("error" or "skip") and in_memory (false: decoded batch by batch) of
                   pictures,
                   standardize (by the training images' mean and deviation, kept with the model),
                   image_size and test_share (of folders and files), classes (their names)
    [fit]          epochs, batch_size, seed, validation ("test" or "none"); may:
                   validation_freq (epochs from one validation to the next)
    [compile]      optimizer, loss, metrics; may: learning_rate, accumulate, clip_norm, clip_value,
                   adaptive_clip (a number, or {clipping = 0.01, eps = 1e-3, leave_out = [...]})
    [[layers]]     type, and the arguments of that layer, in order; or instead
    [model]        architecture, and its arguments; num_classes follows from the data
    [optimizer]    settings: momentum, weight_decay, no_decay ...
    [schedule]     name, its settings, unit ("run", "epochs" or "steps"), warmup
    [averaging]    name ("ema" or "swa"), its settings
    [regularizers] "pattern of weights' names" = {name = "l2", config = {l = 1e-4}}
    [[augment]]    type, and its settings, in order
    [[callbacks]]  type (EarlyStopping, ReduceLROnPlateau, TerminateOnNaN), and its settings

Only the first three and a model are needed. The recipes that come with the package lie in
`pyconvopt/recipes`; a path names one of your own. `recipe_parts` holds the tables.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from pyconvopt import layers, registry
from pyconvopt.data import ArrayLoader
from pyconvopt.data.sources import located
from pyconvopt.extras import require
from pyconvopt.models import Sequential
from pyconvopt.training import recipe_parts as parts


def parse_toml(text: str) -> dict[str, Any]:
    """TOML text as a table; the standard library reads it from Python 3.11 on."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        tomllib = require("tomli", "reading a recipe")
    return tomllib.loads(text)


def parse_value(text: str) -> Any:
    """A value as TOML writes it; anything else is text.

    >>> parse_value('3'), parse_value('[3, 3]'), parse_value('sgd')
    (3, [3, 3], 'sgd')
    """
    try:
        return parse_toml(f"value = {text}")["value"]
    except ValueError:
        return text


def known_names() -> list[str]:
    """The recipes that come with the package."""
    folder = resources.files("pyconvopt") / "recipes"
    return sorted(file.name[:-5] for file in folder.iterdir() if file.name.endswith(".toml"))


@dataclass
class Recipe:
    """A recipe's name and its table.

    >>> recipe = Recipe.load('seed')
    >>> recipe.table['fit']['epochs'], len(recipe.table['layers'])
    (5, 8)
    >>> recipe.set('fit.epochs', 2)
    >>> recipe.model((28, 28, 1)).count_params()
    93322
    """

    name: str
    table: dict[str, Any]

    @classmethod
    def load(cls, name_or_path: str) -> Recipe:
        """The recipe of that name, or the TOML file at that path.

        Errors: ValueError for an unknown name, or a file that is no recipe.
        """
        path = Path(name_or_path)
        if path.suffix == ".toml":
            if not path.is_file():
                raise ValueError(f"there is no recipe file {path}")
            default, text = path.stem, path.read_text(encoding="utf-8")
        elif name_or_path in known_names():
            default = name_or_path
            file = resources.files("pyconvopt") / "recipes" / f"{default}.toml"
            text = file.read_text(encoding="utf-8")
        else:
            raise registry.unknown("recipe", name_or_path, known_names())
        try:
            table = parse_toml(text)
        except ValueError as error:
            raise ValueError(f"{path} is not TOML: {error}") from None
        recipe = cls(str(table.pop("name", default)), table)
        recipe.check()
        recipe.locate()
        return recipe

    def locate(self) -> None:
        """Make the data's path a whole one, so that the recipe can be run from anywhere."""
        self.table["data"]["name"] = located(self.table["data"]["name"])

    def check(self) -> None:
        """Refuse unknown sections, keys and methods, missing ones, and values of a wrong type."""
        sections = [*parts.SECTIONS, *parts.SETTINGS, *parts.LISTS]
        for section, content in self.table.items():
            if section not in sections:
                raise registry.unknown("recipe section", section, sections)
            if not isinstance(content, list if section in parts.LISTS else dict):
                wanted = f"[[{section}]]" if section in parts.LISTS else f"[{section}]"
                raise ValueError(f"{section} must be written as {wanted}, got {content!r}")
        parts.check_values(self.table)
        parts.check_model(self.table)
        parts.check_methods(self.table)

    def check_optimizer(self) -> None:
        """Refuse settings of the optimiser that it does not have: before a run.

        Errors: ValueError; ImportError naming the extra if its package is missing.
        """
        parts.check_optimizer(self.table)

    def set(self, key: str, value: Any) -> None:
        """Change one value by its dotted name: 'fit.epochs', 'schedule.lr', 'layers.0.filters'.

        Errors: ValueError for a name the recipe cannot have, or a value of a wrong type.
        """
        self.change({key: value})

    def change(self, values: Mapping[str, Any]) -> None:
        """Change several values by their dotted names; what comes of all is checked.

        >>> recipe = Recipe.load('seed')
        >>> recipe.change({'optimizer.momentum': 0.9, 'compile.optimizer': 'sgd'})

        Errors: those of `set`; the recipe is then as it was.
        """
        changed = Recipe(self.name, deepcopy(self.table))
        for key, value in values.items():
            changed.put(key, value)
        changed.check()
        changed.locate()
        self.table = changed.table

    def put(self, key: str, value: Any) -> None:
        """Write a value to its place, unchecked; ValueError if there is no such place."""
        section, _, rest = key.partition(".")
        number, _, entry = rest.partition(".")
        if section in parts.LISTS and number.isdigit() and entry:
            items = self.table.get(section, [])
            if int(number) >= len(items):
                has = f"{section} 0 ... {len(items) - 1}" if items else f"no [[{section}]]"
                raise ValueError(f"{key}: the recipe has {has}")
            items[int(number)][entry] = value
        # The names of weights that [regularizers] speaks of have dots of their own.
        elif rest and section not in parts.LISTS and ("." not in rest or section == "regularizers"):
            sections = dict.fromkeys([*parts.SECTIONS, *parts.SETTINGS])
            registry.find("recipe section", sections, section)
            self.table.setdefault(section, {})[rest] = value
        else:
            raise ValueError(
                f"{key!r} names nothing in a recipe; write section.key, such as fit.epochs, or "
                "layers.0.filters"
            )

    def to_toml(self) -> str:
        """The recipe as TOML text that `load` reads back."""
        lines = ["# a recipe as it was run", f"name = {toml(self.name)}"]
        for section in (*parts.SECTIONS, *parts.SETTINGS):
            if section in self.table:
                lines += ["", f"[{section}]", *assignments(self.table[section])]
        for section in parts.LISTS:
            for entry in self.table.get(section, ()):
                lines += ["", f"[[{section}]]", *assignments(entry)]
        return "\n".join(lines) + "\n"

    def model(self, input_shape: tuple[int, ...], num_classes: int | None = None) -> Sequential:
        """The model for images of that shape (height, width, channels), compiled.

        `num_classes`: the outputs of an architecture, where the recipe does not say it.

        Errors: ValueError for a layer or an argument there is not.
        """
        model = Sequential(name=self.name)
        model.start_from(input_shape)
        if self.table["data"].get("standardize"):
            model.add(layers.Normalization())
        if "model" in self.table:
            name, arguments = parts.named("model", self.table["model"], "architecture")
            if num_classes is not None:
                arguments.setdefault("num_classes", num_classes)
            model.add(layers.Architecture(name, arguments))
            model.add(layers.Activation("softmax"))
        parts.add_layers(self.table, model.add)
        model.compile(
            **self.table["compile"]
            | {
                "optimizer": parts.optimizer(self.table),
                "schedule": parts.schedule(self.table),
                "regularizers": parts.penalties(self.table),
                "callbacks": parts.average(self.table) + parts.callbacks(self.table),
            }
        )
        return model

    def model_for(self, images: np.ndarray, labels: np.ndarray) -> Sequential:
        """The model for these training images, which its first layers have adapted to."""
        model = self.model(images.shape[1:], num_classes=int(labels.max()) + 1)
        model.adapt(images)
        return model

    def batches(self, images: np.ndarray, labels: np.ndarray, **changes: Any) -> ArrayLoader:
        """The training images in the batches and with the augmentation of the recipe.

        `changes`: other values for `ArrayLoader`'s arguments.
        """
        fit = self.table["fit"]
        options = {"batch_size": fit["batch_size"], "seed": fit["seed"], **changes}
        augment = parts.transforms(self.table)
        return ArrayLoader(images, labels, shuffle=True, augment=augment, **options)


def assignments(table: dict[str, Any]) -> list[str]:
    """A line of TOML for each value."""
    return [f"{toml_key(key)} = {toml(value)}" for key, value in table.items()]


def toml_key(key: str) -> str:
    """A key as TOML writes it, quoted where it must be.

    >>> toml_key('epochs'), toml_key('conv*.weight')
    ('epochs', '"conv*.weight"')
    """
    is_bare = key and all((each.isalnum() and each.isascii()) or each in "-_" for each in key)
    return key if is_bare else json.dumps(key, ensure_ascii=False)


def toml(value: Any) -> str:
    """A value as TOML writes it: JSON's way but for tables.

    >>> toml([3, 'a', {'l': 0.1}])
    '[3, "a", {l = 0.1}]'
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(assignments(value)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml(each) for each in value) + "]"
    return json.dumps(value, ensure_ascii=False)
