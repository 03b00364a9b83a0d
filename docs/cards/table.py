"""The table of the method cards, `docs/methods/methods.toml`, read and checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyconvopt import registry
from pyconvopt.training.recipes import parse_toml, toml

METHODS = Path(__file__).parent.parent / "methods"
TABLE = METHODS / "methods.toml"
NEEDED = ("title", "group", "when", "use", "ways")
OPTIONAL = ("of", "formula", "base", "resnet", "needs")
# The recipes that the runs change, and where they are found.
SEED, RESNET = "seed", "resnet"
SOURCES = {SEED: "seed", RESNET: str(METHODS / "resnet.toml")}


@dataclass(frozen=True)
class Way:
    """One of the runs that a card compares: its label on the page, and its changes to a recipe."""

    label: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = SEED

    @property
    def name(self) -> str:
        """The label and a mark of all changes, as it stands in the results.

        A run is found again by it, so a way that was changed is run anew.

        >>> Way('more', {'fit.epochs': 9}).name, Way('more', {'fit.epochs': 10}).name
        ('more d8e36b', 'more 279496')
        """
        changes = json.dumps(self.changes, sort_keys=True)
        return f"{self.label} {hashlib.sha256(changes.encode()).hexdigest()[:6]}"


@dataclass(frozen=True)
class Study:
    """The runs that judge a method with one network: changes that all have, and the ways."""

    card: str
    recipe: str
    base: Mapping[str, Any]
    ways: Mapping[str, Mapping[str, Any]]

    @property
    def file(self) -> str:
        """The results of the ways; those of the recipe itself, which studies share, have its name."""
        return self.card if self.recipe == SEED else f"{self.card}-{self.recipe}"

    def entries(self, budget: Mapping[str, Any] | None = None) -> list[Way]:
        """The baseline, then the ways; `budget` are changes that all of them get."""
        common = {**self.base, **(budget or {})}
        baseline = Way(self.recipe, common, self.recipe)
        method = [Way(label, {**common, **each}, self.recipe) for label, each in self.ways.items()]
        return [baseline, *method]


@dataclass(frozen=True)
class Card:
    """A method: what the page says of it, and the runs that it is judged by."""

    key: str
    title: str
    group: str
    when: str
    use: str
    ways: Mapping[str, Mapping[str, Any]]
    of: Sequence[str] = ()
    formula: str = ""
    base: Mapping[str, Any] = field(default_factory=dict)
    resnet: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    needs: str = ""

    @property
    def studies(self) -> list[Study]:
        """One for each network: the article's, and the small ResNet if the card has ways for it."""
        studies = [Study(self.key, SEED, self.base, self.ways)]
        if self.resnet:
            studies.append(Study(self.key, RESNET, {}, self.resnet))
        return studies


def read(path: Path = TABLE) -> dict[str, Card]:
    """The cards by their keys, in the order of the file.

    Errors: ValueError for a card that lacks something, or has something unknown.
    """
    cards = {}
    for key, entry in parse_toml(path.read_text("utf-8")).items():
        for name in entry:
            if name not in NEEDED + OPTIONAL:
                raise registry.unknown(f"entry of the card {key}:", name, NEEDED + OPTIONAL)
        missing = [name for name in NEEDED if name not in entry]
        if missing or not ("of" in entry or "formula" in entry):
            lacking = missing[0] if missing else "`of` or `formula`"
            raise ValueError(f"the card {key} lacks {lacking}")
        cards[key] = Card(key, **entry)
    return cards


def shown(changes: Mapping[str, Any]) -> str:
    """Changes for a reader: one a line of Markdown code.

    >>> shown({'layers.6.rate': 0.5})
    '`layers.6.rate = 0.5`'
    """
    return "<br>".join(
        f"`{key} = {toml(value)}`".replace("|", "\\|") for key, value in changes.items()
    )
