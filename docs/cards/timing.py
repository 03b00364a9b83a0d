"""What the ways of the method cards cost in time: epochs in turns with the baseline's.

Beside the runs for the accuracy, which are too long to be held against each other on a machine whose
speed changes with the hour: here a way and the baseline take turns within a second.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docs.cards.table import Card
from docs.cards.training import claim, train
from pyconvopt.files import write_whole
from pyconvopt.training.results import as_csv
from pyconvopt.training.statistics import Estimate, estimate

FILE = "times"
COLUMNS = ["card", "way", "round", "baseline_seconds", "seconds"]
SHORT = {"fit.epochs": 2, "images": 9600}
"""The epoch that counts is the second."""


def measure(card: Card, results: Path, rounds: int) -> None:
    """Time each way of a card, in the place of what was measured of it before."""
    claim(results, FILE)
    baseline, *ways = card.entries()
    lines = [line for line in read(results) if line["card"] != card.key]
    for way in ways:
        for number in range(rounds):
            seconds = [epoch_seconds(each.changes) for each in (baseline, way)]
            values = (card.key, way.name, number, *seconds)
            lines.append(dict(zip(COLUMNS, map(str, values), strict=True)))
    text = as_csv([COLUMNS, *(line.values() for line in lines)])
    write_whole(results / f"{FILE}.csv", text)


def epoch_seconds(changes: Mapping[str, Any]) -> float:
    """The time of the second epoch over the first images, in seconds."""
    return train({**changes, **SHORT}, seed=0, validate=False).seconds[1]


def read(results: Path) -> list[dict[str, str]]:
    """The lines of the file of times."""
    path = results / f"{FILE}.csv"
    return list(csv.DictReader(path.open(encoding="utf-8", newline=""))) if path.exists() else []


def changes(card: Card, results: Path) -> dict[str, Estimate]:
    """How much longer an epoch of each way takes than the baseline's, as a share, by label."""
    shares: dict[str, list[float]] = {}
    for line in read(results):
        share = float(line["seconds"]) / float(line["baseline_seconds"]) - 1
        shares.setdefault(line["way"], []).append(share)
    _, *ways = card.entries()
    return {way.label: estimate(shares[way.name]) for way in ways if way.name in shares}
