"""Recipes: a whole training run as a TOML file.

    name       of the recipe; else it is called like its file
    [data]     name, scale (pixels are divided by it)
    [fit]      epochs, batch_size, seed, validation ("test" or "none")
    [compile]  optimizer, loss, metrics; may: learning_rate, accumulate, clip_norm, clip_value
    [[layers]] type, and the arguments of that layer, in order

The recipes that come with the package lie in `pyconvopt/recipes`; a path names one of your own.
"""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pyconvopt import registry
from pyconvopt.extras import require
from pyconvopt.models import Sequential

# What a recipe may say besides its layers, and the type of each value.
SECTIONS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "data": {"name": str, "scale": (int, float)},
    "fit": {"epochs": int, "batch_size": int, "seed": int, "validation": str},
    "compile": {"optimizer": str, "loss": str, "metrics": list},
}
# What it may leave out.
OPTIONAL: dict[str, dict[str, type | tuple[type, ...]]] = {
    "compile": {
        "learning_rate": (int, float),
        "accumulate": int,
        "clip_norm": (int, float),
        "clip_value": (int, float),
    },
}


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
        return recipe

    def check(self) -> None:
        """Refuse unknown sections and keys, missing ones, and values of a wrong type."""
        sections = [*SECTIONS, "layers"]
        for section in self.table:
            if section not in sections:
                raise registry.unknown("recipe section", section, sections)
        for section, keys in SECTIONS.items():
            known = keys | OPTIONAL.get(section, {})
            for key, value in self.table.get(section, {}).items():
                kind = registry.find(f"key in [{section}]", known, key)
                if not isinstance(value, kind) or isinstance(value, bool):
                    kinds = kind if isinstance(kind, tuple) else (kind,)
                    wanted = " or ".join(each.__name__ for each in kinds)
                    raise ValueError(f"{section}.{key} must be {wanted}, got {value!r}")
            missing = [key for key in keys if key not in self.table.get(section, {})]
            if missing:
                raise ValueError(f"the recipe lacks {section}.{missing[0]}")
        layers = self.table.get("layers")
        if not isinstance(layers, list) or not layers:
            raise ValueError("the recipe has no [[layers]]")
        for index, layer in enumerate(layers):
            if "type" not in layer:
                raise ValueError(f"layers.{index} lacks its type")
        for key, least in (("epochs", 1), ("batch_size", 1)):
            if self.table["fit"][key] < least:
                raise ValueError(f"fit.{key} must be {least} or more, got {self.table['fit'][key]}")
        registry.find(
            "fit.validation", {"test": None, "none": None}, self.table["fit"]["validation"]
        )

    def set(self, key: str, value: Any) -> None:
        """Change one value by its dotted name: 'fit.epochs', 'layers.0.filters'.

        Errors: ValueError for a name the recipe cannot have, or a value of a wrong type.
        """
        changed = Recipe(self.name, deepcopy(self.table))
        section, *path = key.split(".")
        if section == "layers" and len(path) == 2 and path[0].isdigit():
            layers = changed.table["layers"]
            if int(path[0]) >= len(layers):
                raise ValueError(f"{key}: the recipe has layers 0 ... {len(layers) - 1}")
            layers[int(path[0])][path[1]] = value
        elif len(path) == 1 and section != "layers":
            registry.find("recipe section", SECTIONS, section)
            changed.table[section][path[0]] = value
        else:
            raise ValueError(
                f"{key!r} names nothing in a recipe; write section.key, such as fit.epochs, or "
                "layers.0.filters"
            )
        changed.check()
        self.table = changed.table

    def to_toml(self) -> str:
        """The recipe as TOML text that `load` reads back."""
        lines = ["# a recipe as it was run", f"name = {toml(self.name)}"]
        for section in SECTIONS:
            lines += ["", f"[{section}]"]
            lines += [f"{key} = {toml(value)}" for key, value in self.table[section].items()]
        for layer in self.table["layers"]:
            lines += ["", "[[layers]]"]
            lines += [f"{key} = {toml(value)}" for key, value in layer.items()]
        return "\n".join(lines) + "\n"

    def model(self, input_shape: tuple[int, ...]) -> Sequential:
        """The model for images of that shape (height, width, channels), compiled.

        Errors: ValueError for a layer or an argument there is not.
        """
        from pyconvopt.layers import TABLE

        model = Sequential(name=self.name)
        model.start_from(input_shape)
        for index, entry in enumerate(self.table["layers"]):
            arguments = {key: value for key, value in entry.items() if key != "type"}
            try:
                model.add(registry.find("layer", TABLE, entry["type"])(**arguments))
            except TypeError as error:
                raise ValueError(f"layers.{index} of the recipe: {error}") from None
        model.compile(**self.table["compile"])
        return model


def toml(value: Any) -> str:
    """A value as TOML writes it: JSON's way but for tables.

    >>> toml([3, 'a', {'l': 0.1}])
    '[3, "a", {l = 0.1}]'
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml(each) for each in value) + "]"
    return json.dumps(value, ensure_ascii=False)
