"""Try several settings, pick by performance: the article's advice, with most of the time for the best.

Successive halving: all candidates train a little, the better third of them three times as long, and
so on, until the last have had all epochs. Each trains as a single run of all epochs would, paused in
between: its schedule is that of the whole run, and what goes on ends with the same bits as if it had
not been stopped.

The candidates are every combination of the values (`grid`), or those that Optuna draws, each in the
light of what the ones before came to (`sweep_optuna`).

Source: Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter
optimization", arXiv:1502.07943.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pyconvopt import registry
from pyconvopt.data.loader import ArrayLoader
from pyconvopt.files import write_whole
from pyconvopt.json_text import to_json
from pyconvopt.randomness import random_states_kept
from pyconvopt.training import sweep_optuna
from pyconvopt.training.callbacks import listed
from pyconvopt.training.candidates import Candidate, best_of, grid, rungs, to_validations
from pyconvopt.training.monitors import Monitor
from pyconvopt.training.processes import join
from pyconvopt.training.recipes import Recipe
from pyconvopt.training.results import as_csv
from pyconvopt.training.sweep_recipes import BatchesOf, of_recipe
from pyconvopt.training.trainer import Trainer

SAMPLERS = ("grid", "optuna")
TRIALS = 20  # that Optuna makes unless told otherwise


class Sweep:
    """What a sweep found; `candidates` are best first: those that trained longest, by score.

    `best` are the settings of the first, `trainer` and `model` what they trained.
    """

    def __init__(self, candidates: list[Candidate], monitor: str) -> None:
        sign = Monitor(monitor, "auto").sign

        def rank(each: Candidate) -> tuple[float, float]:
            return (-each.until, math.inf if each.score is None else -sign * each.score)

        for each in candidates:
            each.pause.state = None  # nobody goes on
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
        return to_json({"best": self.best, "monitor": self.monitor, "rows": self.rows})


def sweep(
    make: Any,
    space: Mapping[str, Any],
    data: Any = None,
    *,
    validation: Any = None,
    sampler: str = "grid",
    trials: int | None = None,
    epochs: int | None = None,
    monitor: str = "val_accuracy",
    factor: int = 3,
    seed: int = 0,
    verbose: int = 1,
    **fit: Any,
) -> Sweep:
    """Train settings a while, the better ones longer, and return the best.

    Args: make (a `Recipe`, or a function of the settings that returns a `Trainer` or a compiled
    `Sequential`), space ({name: values}; of a recipe {'compile.learning_rate': [...]}), data and
    validation (as for `fit`; a recipe brings its own, the last tenth of its training images being
    held out), sampler ('grid': every combination; 'optuna': those that Optuna's tree-structured Parzen
    estimator draws, one after the other, where a range {'low': 1e-4, 'high': 0.1, 'log': True} may
    stand for a list; whole numbers give whole numbers), trials (20, of 'optuna'), epochs (of the
    best; None: the recipe's, else 9), monitor ('val_accuracy'), factor (3: of so many one goes on),
    seed, verbose (1: a line for each), and more for `fit`.

    Every candidate begins with the same seed. One whose loss became no number is out. Under `torchrun`
    every candidate is trained by all processes (see `processes`); the first prints.

    Errors: ValueError for an empty space, settings a recipe does not have, or a number the runs do
    not give, or a checkpoint, which all would share; RuntimeError if every candidate failed;
    ImportError naming the extra without Optuna.

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
    registry.find("sampler", dict.fromkeys(SAMPLERS), sampler)
    if sampler == "grid" and trials is not None:
        raise ValueError(
            "trials belong to the sampler 'optuna'; a grid has as many as combinations"
        )
    if fit.get("checkpoint") is not None:
        raise ValueError(
            "a sweep takes no checkpoint: all candidates would go on from the same one"
        )
    if isinstance(make, Recipe):
        epochs = epochs or make.table["fit"]["epochs"]
        make, data, validation = of_recipe(make, space, data, validation, fit, seed)
    says = bool(verbose) and join().is_first

    longest = epochs or 9
    # A number of the validation is there only after one.
    frequency = fit.get("validation_freq", 1) if monitor.startswith("val_") else 1

    def go_on(each: Candidate, until: int) -> None:
        options = {"validation": validation, "seed": seed, "epochs": longest, **fit}
        train(each, until, make, data, monitor, options)
        if says:
            settings = ", ".join(f"{key} {value}" for key, value in each.settings.items())
            score = each.failure or f"{monitor} {each.score:.4f}"
            epoch = "epoch" if each.epochs == 1 else "epochs"
            print(f"{settings}: {score} after {each.epochs} {epoch}", flush=True)

    with random_states_kept():
        if sampler == "optuna":
            plan = to_validations(rungs(longest, longest, factor), frequency)
            ends = [until for _, until in plan]
            drawn = sweep_optuna.Draws(space, trials or TRIALS, monitor, factor, seed)
            candidates = drawn.run(go_on, ends)
        else:
            candidates = alive = [Candidate(settings) for settings in grid(space)]
            for count, until in to_validations(rungs(len(candidates), longest, factor), frequency):
                alive = best_of(alive, monitor, count)
                for each in alive:
                    go_on(each, until)
    return Sweep(candidates, monitor)


def train(
    candidate: Candidate,
    until: int,
    make: Callable[..., Any],
    data: Any,
    monitor: str,
    options: Mapping[str, Any],
) -> None:
    """Train a candidate on to that epoch; `data` may be those of its settings."""
    if candidate.trainer is None:
        torch.manual_seed(options["seed"])
        made = make(**candidate.settings)
        candidate.trainer = made if isinstance(made, Trainer) else made.trainer()
        candidate.data = data.of(candidate.settings) if isinstance(data, BatchesOf) else data
        if isinstance(candidate.data, ArrayLoader):  # may be shared: each begins anew
            candidate.data.epoch = 0
    callbacks = [*listed(options.get("callbacks")), candidate.pause]
    whole = {"verbose": 0, **options, "callbacks": callbacks}
    made = candidate.pause.fit(candidate.trainer, until, candidate.data, **whole)
    history = made.history
    candidate.until, candidate.epochs = until, len(made.epoch)
    candidate.failure, candidate.score = candidate.trainer.failure, None
    if candidate.failure is None:
        if monitor not in history:
            has_data = monitor.startswith("val_") and options.get("validation") is not None
            hint = "a smaller validation_freq" if has_data else "validation data"
            raise ValueError(
                f"the runs give no {monitor!r}, only {', '.join(history)}: give {hint}, or choose "
                "one of these as monitor"
            )
        candidate.score = history[monitor][-1]
        if not math.isfinite(candidate.score):
            candidate.failure, candidate.score = f"{monitor} is {candidate.score}", None
