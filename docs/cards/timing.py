"""What the ways of the method cards cost in time: epochs in turns with the baseline's.

Beside the runs for the accuracy, which are too long to be held against each other on a machine whose
speed changes with the hour: here a way and the baseline take turns within a second.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import torch

from docs.cards.table import RESNET, SEED, Study, Way
from docs.cards.training import claim, train
from pyconvopt.files import write_whole
from pyconvopt.training.results import as_csv
from pyconvopt.training.statistics import Estimate, estimate

FILE = "times"
COLUMNS = ["study", "way", "round", "baseline_seconds", "seconds"]
# The epoch that counts is the second.
SHORT = {SEED: {"fit.epochs": 2, "images": 9600}, RESNET: {"fit.epochs": 2, "images": 3200}}


def measure(study: Study, results: Path, rounds: int) -> None:
    """Time each way of a study, in the place of what was measured of it before."""
    claim(results, FILE, threads=torch.get_num_threads())
    baseline, *ways = study.entries()
    lines = [line for line in read(results) if line["study"] != study.file]
    for way in ways:
        for number in range(rounds):
            seconds = [epoch_seconds(each) for each in (baseline, way)]
            values = (study.file, way.name, number, *seconds)
            lines.append(dict(zip(COLUMNS, map(str, values), strict=True)))
    text = as_csv([COLUMNS, *(line.values() for line in lines)])
    write_whole(results / f"{FILE}.csv", text)


def epoch_seconds(way: Way) -> float:
    """The time of the second epoch over the first images, in seconds."""
    short = replace(way, changes={**way.changes, **SHORT[way.recipe]})
    return train(short, seed=0, validate=False).seconds[1]


def read(results: Path) -> list[dict[str, str]]:
    """The lines of the file of times."""
    path = results / f"{FILE}.csv"
    return list(csv.DictReader(path.open(encoding="utf-8", newline=""))) if path.exists() else []


def changes(study: Study, results: Path) -> dict[str, Estimate]:
    """How much longer an epoch of each way takes than the baseline's, as a share, by label."""
    shares: dict[str, list[float]] = {}
    for line in read(results):
        if line["study"] == study.file:
            share = float(line["seconds"]) / float(line["baseline_seconds"]) - 1
            shares.setdefault(line["way"], []).append(share)
    _, *ways = study.entries()
    return {way.label: estimate(shares[way.name]) for way in ways if way.name in shares}
