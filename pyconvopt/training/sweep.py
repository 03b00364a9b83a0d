"""Try several settings, pick by performance: the article's advice, with most of the time for the best.

Successive halving: all candidates train a little, the better third of them three times as long, and
so on, until the last have had all epochs. What trains on goes on where it was, to the same bits as if
it had not been stopped.

Source: Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter
optimization", arXiv:1502.07943.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pyconvopt.data.loader import ArrayLoader
from pyconvopt.files import write_whole
from pyconvopt.randomness import random_states, random_states_kept, set_random_states
from pyconvopt.training.monitors import Monitor
from pyconvopt.training.recipes import Recipe
from pyconvopt.training.results import as_csv
from pyconvopt.training.run import load_images
from pyconvopt.training.trainer import Trainer

# The sections of a recipe that its candidates may differ in.
SWEPT = ("compile", "layers", "model", "optimizer", "schedule", "averaging", "regularizers")
HELD_OUT = 0.1  # of a recipe's training images: the test images are not for choosing


@dataclass
class Candidate:
    """Settings, how long they have trained, and the score they came to (None: they failed)."""

    settings: dict[str, Any]
    epochs: int = 0
    score: float | None = None
    failure: str | None = None
    trainer: Trainer | None = field(default=None, repr=False)
    random: dict[str, Any] = field(default_factory=dict, repr=False)


class Sweep:
    """What a sweep found; `candidates` are best first: those that trained longest, by score.

    `best` are the settings of the first, `trainer` and `model` what they trained.
    """

    def __init__(self, candidates: list[Candidate], monitor: str) -> None:
        sign = Monitor(monitor, "auto").sign

        def rank(each: Candidate) -> tuple[float, float]:
            return (-each.epochs, math.inf if each.score is None else -sign * each.score)

        self.monitor = monitor
        self.candidates = sorted(candidates, key=lambda each: (each.score is None, *rank(each)))
        if self.candidates[0].score is None:
            raise RuntimeError(
                f"every candidate failed, the first so: {self.candidates[0].failure}"
            )

    @property
    def best(self) -> dict[str, Any]:
        """The best settings."""
        return self.candidates[0].settings

    @property
    def trainer(self) -> Trainer:
        """The trainer of the best settings."""
        trainer = self.candidates[0].trainer
        assert trainer is not None
        return trainer

    @property
    def model(self) -> Any:
        """The model trained with the best settings."""
        return self.trainer.model

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A dict for each candidate: its settings, 'epochs', the monitored number."""
        return [
            {**each.settings, "epochs": each.epochs, self.monitor: each.score}
            for each in self.candidates
        ]

    def markdown(self) -> str:
        """The candidates as a Markdown table, best first."""
        lines = [list(self.rows[0])]
        lines.append(["---:"] * len(lines[0]))
        for row in self.rows:
            *settings, score = row.values()
            said = "failed" if score is None else f"{score:.4f}"
            lines.append([*(f"{value}" for value in settings), said])
        return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)

    def to_csv(self, path: str | Path) -> None:
        """Write the candidates as CSV."""
        write_whole(path, as_csv([list(self.rows[0]), *(row.values() for row in self.rows)]))

    def to_json(self) -> str:
        """The best settings and all candidates as JSON."""
        return json.dumps({"best": self.best, "monitor": self.monitor, "rows": self.rows})


def grid(space: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the values.

    >>> grid({'rate': [0.1, 0.01], 'batch': [32]})
    [{'rate': 0.1, 'batch': 32}, {'rate': 0.01, 'batch': 32}]
    """
    for name, values in space.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ValueError(
                f"the values of {name} must be a list with at least one, got {values!r}"
            )
    if not space:
        raise ValueError("there is nothing to sweep: give {name: [values]}")
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]


def rungs(candidates: int, epochs: int, factor: int = 3) -> list[tuple[int, int]]:
    """How many candidates train until which epoch, rung by rung.

    >>> rungs(9, 9), rungs(4, 5), rungs(27, 4)
    ([(9, 1), (3, 3), (1, 9)], [(4, 2), (2, 5)], [(27, 1), (9, 4)])
    """
    count = 0
    while factor ** (count + 1) <= min(candidates, epochs):
        count += 1
    plan = []
    for rung in range(count + 1):
        plan.append((candidates, max(1, round(epochs / factor ** (count - rung)))))
        candidates = math.ceil(candidates / factor)
    return plan


def sweep(
    make: Any,
    space: Mapping[str, Sequence[Any]],
    data: Any = None,
    *,
    validation: Any = None,
    epochs: int | None = None,
    monitor: str = "val_accuracy",
    factor: int = 3,
    seed: int = 0,
    verbose: int = 1,
    **fit: Any,
) -> Sweep:
    """Train every combination of settings a while, the better ones longer, and return the best.

    Args: make (a `Recipe`, or a function of the settings that returns a `Trainer` or a compiled
    `Sequential`), space ({name: values}; of a recipe {'compile.learning_rate': [...]}), data and
    validation (as for `fit`; a recipe brings its own, the last tenth of its training images being
    held out), epochs (of the best; None: the recipe's, else 9), monitor ('val_accuracy'), factor
    (3: of so many one goes on), seed, verbose (1: a line for each), and more for `fit`.

    Every candidate begins with the same seed. One whose loss became no number is out.

    Errors: ValueError for an empty space, settings a recipe does not have, or a number the runs do
    not give; RuntimeError if every candidate failed.

    >>> x = torch.randn(300, 2)
    >>> def make(rate):
    ...     model = torch.nn.Linear(2, 2)
    ...     return Trainer(model, 'sgd', learning_rate=rate, metrics=['accuracy'])
    >>> data = (x, (x[:, 0] > 0).long())
    >>> result = sweep(make, {'rate': [1e-5, 1e-4, 0.5]}, data, validation=data, epochs=3, verbose=0)
    >>> result.best, [row['epochs'] for row in result.rows]
    ({'rate': 0.5}, [3, 1, 1])
    """
    if not isinstance(factor, int) or factor < 2:
        raise ValueError(f"factor must be a whole number >= 2, got {factor!r}")
    if isinstance(make, Recipe):
        epochs = epochs or make.table["fit"]["epochs"]
        make, data, validation = of_recipe(make, space, data, validation, fit, seed)
    candidates = [Candidate(settings) for settings in grid(space)]
    alive = candidates
    with random_states_kept():
        for count, until in rungs(len(candidates), epochs or 9, factor):
            alive = best_of(alive, monitor, count)
            for each in alive:
                train(each, until, make, data, validation, monitor, seed, fit)
                if verbose:
                    settings = ", ".join(f"{key} {value}" for key, value in each.settings.items())
                    score = each.failure or f"{monitor} {each.score:.4f}"
                    print(f"{settings}: {score} after {each.epochs} epochs", flush=True)
    return Sweep(candidates, monitor)


def best_of(candidates: list[Candidate], monitor: str, count: int) -> list[Candidate]:
    """The best so many of those that did not fail; all in order before anything was trained."""
    whole = [each for each in candidates if each.failure is None]
    if all(each.score is not None for each in whole):
        sign = Monitor(monitor, "auto").sign
        whole = sorted(whole, key=lambda each: -sign * (each.score or 0.0))
    return whole[:count]


def train(
    candidate: Candidate,
    until: int,
    make: Callable[..., Any],
    data: Any,
    validation: Any,
    monitor: str,
    seed: int,
    fit: Mapping[str, Any],
) -> None:
    """Train a candidate on to that epoch."""
    if candidate.trainer is None:
        torch.manual_seed(seed)
        made = make(**candidate.settings)
        candidate.trainer = made if isinstance(made, Trainer) else made.trainer()
    else:
        set_random_states(candidate.random)
    options = {"validation": validation, "seed": seed, "verbose": 0, **fit}
    if isinstance(data, ArrayLoader):  # shared by all: each goes on in the order of its own epoch
        data.epoch = candidate.epochs
    history = candidate.trainer.fit(
        data, epochs=until, initial_epoch=candidate.epochs, **options
    ).history
    candidate.random, candidate.epochs = random_states(), until
    candidate.failure, candidate.score = candidate.trainer.failure, None
    if candidate.failure is None:
        if monitor not in history:
            raise ValueError(
                f"the runs give no {monitor!r}, only {', '.join(history)}: give validation data, or "
                "choose one of these as monitor"
            )
        candidate.score = history[monitor][-1]
        if not math.isfinite(candidate.score):
            candidate.failure, candidate.score = f"{monitor} is {candidate.score}", None


def changed(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe with other settings.

    Errors: ValueError for what it does not have, or what a sweep cannot change.
    """
    copied = Recipe(recipe.name, deepcopy(recipe.table))
    for key, value in settings.items():
        if key.partition(".")[0] not in SWEPT:
            raise ValueError(f"a sweep changes {', '.join(SWEPT)} of a recipe, not {key!r}")
        copied.set(key, value)
    return copied


def of_recipe(
    recipe: Recipe,
    space: Mapping[str, Sequence[Any]],
    data: Any,
    validation: Any,
    fit: dict[str, Any],
    seed: int,
) -> tuple[Callable[..., Any], Any, Any]:
    """What makes a recipe's models, its data, and what is held out of them."""
    for settings in grid(space):  # refused now, not after hours
        changed(recipe, settings)
    if data is None:
        (x, y), _ = load_images(recipe)
        kept = len(x) - max(1, round(len(x) * HELD_OUT))
        data, validation = (x[:kept], y[:kept]), (x[kept:], y[kept:])
    x, y = data
    batch_size = fit.pop("batch_size", recipe.table["fit"]["batch_size"])

    def make(**settings: Any) -> Any:
        return changed(recipe, settings).model_for(x, y)

    return make, recipe.batches(x, y, batch_size=batch_size, seed=seed), validation
