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
OPTIONAL = ("of", "formula", "base", "needs")
BASELINE = "seed"


@dataclass(frozen=True)
class Way:
    """One of the runs that a card compares: its label on the page, and its changes to `seed`."""

    label: str
    changes: Mapping[str, Any] = field(default_factory=dict)

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
    needs: str = ""

    def entries(self, budget: Mapping[str, Any] | None = None) -> list[Way]:
        """The baseline, then the ways; `budget` are changes that all of them get."""
        common = {**self.base, **(budget or {})}
        method = [Way(label, {**common, **changes}) for label, changes in self.ways.items()]
        return [Way(BASELINE, common), *method]


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
