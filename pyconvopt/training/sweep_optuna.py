"""A sweep whose candidates Optuna draws: each in the light of what those before it came to.

The sampler is a tree-structured Parzen estimator. A candidate trains from rung to rung; it is given up
at a rung where it does not belong to the better third (1 / factor) of those that came so far, which is
successive halving without waiting for the others.

Sources: Bergstra et al. 2011, "Algorithms for hyper-parameter optimization", NeurIPS; Li et al. 2020,
"A system for massively parallel hyperparameter tuning", arXiv:1810.05934.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyconvopt import registry
from pyconvopt.extras import require
from pyconvopt.training.candidates import Candidate
from pyconvopt.training.monitors import Monitor

RANGE = ("low", "high", "log", "step")


class Draws:
    """A study of so many trials over a space of lists and ranges.

    Errors: ImportError naming the extra without Optuna; ValueError for what is no list or range.
    """

    def __init__(
        self, space: Mapping[str, Any], trials: int, monitor: str, factor: int, seed: int
    ) -> None:
        self.optuna = optuna = require("optuna", "the sampler 'optuna'", "optuna")
        if not space:
            raise ValueError("there is nothing to sweep: give {name: values}")
        self.space = {name: checked(name, values) for name, values in space.items()}
        self.trials, self.factor = trials, factor
        level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would announce every study
        try:
            self.study = optuna.create_study(
                direction="maximize" if Monitor(monitor, "auto").sign > 0 else "minimize",
                sampler=optuna.samplers.TPESampler(seed=seed),
                pruner=optuna.pruners.SuccessiveHalvingPruner(1, factor),
            )
        finally:
            optuna.logging.set_verbosity(level)

    def run(self, train: Callable[[Candidate, int], None], ends: Sequence[int]) -> list[Candidate]:
        """Draw and train all candidates; `ends` are the last epochs of the rungs."""
        return [self.candidate(train, ends) for _ in range(self.trials)]

    def candidate(self, train: Callable[[Candidate, int], None], ends: Sequence[int]) -> Candidate:
        """Draw a candidate and train it for as long as it is worth it."""
        trial, states = self.study.ask(), self.optuna.trial.TrialState
        candidate = Candidate(
            {name: drawn(trial, name, values) for name, values in self.space.items()}
        )
        for rung, until in enumerate(ends):
            train(candidate, until)
            if candidate.score is None:
                self.study.tell(trial, state=states.FAIL)
                return candidate
            trial.report(candidate.score, self.factor**rung)
            if until != ends[-1] and trial.should_prune():
                self.study.tell(trial, state=states.PRUNED)
                return candidate
        self.study.tell(trial, candidate.score)
        return candidate


def checked(name: str, values: Any) -> Any:
    """A list of values, or a range.

    >>> checked('rate', {'low': 1e-4, 'high': 0.1, 'log': True})
    {'low': 0.0001, 'high': 0.1, 'log': True}
    """
    if isinstance(values, Mapping):
        for key in values:
            registry.find("key of a range", dict.fromkeys(RANGE), key)
        if "low" in values and "high" in values and values["low"] <= values["high"]:
            return values
    elif isinstance(values, Sequence) and not isinstance(values, str) and values:
        return values
    raise ValueError(
        f"the values of {name} must be a list, or a range such as {{'low': 1e-4, 'high': 0.1}}, got "
        f"{values!r}"
    )


def drawn(trial: Any, name: str, values: Any) -> Any:
    """What a trial draws of a list or a range."""
    if not isinstance(values, Mapping):
        return values[trial.suggest_categorical(name, list(range(len(values))))]
    whole = isinstance(values["low"], int) and isinstance(values["high"], int)
    return (trial.suggest_int if whole else trial.suggest_float)(name, **values)
