"""The learning-rate range test: the loss while the rate grows a little with every step.

Too small a rate leaves the loss as it is, a good one makes it fall, too large a one makes it rise. The
test trains a copy, so it changes nothing: no weight, no optimiser, no random state.

Source: Smith 2017, "Cyclical learning rates for training neural networks", arXiv:1506.01186.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from pyconvopt import registry
from pyconvopt.data.loader import ArrayLoader, Loader, as_batches
from pyconvopt.data.stream import Stream
from pyconvopt.json_text import to_json
from pyconvopt.metrics import Average
from pyconvopt.randomness import own_generators, random_states_kept
from pyconvopt.training.after_step import count_updates
from pyconvopt.training.processes import join
from pyconvopt.training.rates import set_rate
from pyconvopt.training.trainer import Trainer


def steepest(losses: list[float]) -> float:
    """The step at which the loss falls fastest: central differences over equal steps of log rate.

    They reach a twentieth of the test to either side, so that one odd batch does not decide.

    >>> steepest([5.0, 4.9, 4.0, 2.0, 1.9, 3.0])
    2.0
    """
    reach = max(1, len(losses) // 20)
    slopes = [after - before for before, after in zip(losses, losses[2 * reach :], strict=False)]
    return float(slopes.index(min(slopes)) + reach)


def valley(losses: list[float]) -> float:
    """Two thirds along the longest fall: the longest subsequence of ever smaller losses.

    >>> round(valley([3.1, 3.0, 3.0, 2.5, 2.6, 1.5, 4.0]), 3)  # 3.1, 3.0, 2.5, 1.5: steps 0 to 5
    3.333
    """
    lengths, starts = [1] * len(losses), list(range(len(losses)))
    for here, loss in enumerate(losses):
        for before in range(here):
            if losses[before] > loss and lengths[before] >= lengths[here]:
                lengths[here], starts[here] = lengths[before] + 1, starts[before]
    end = lengths.index(max(lengths))
    return starts[end] + 2 / 3 * (end - starts[end])


def minimum(losses: list[float]) -> float:
    """The step of the smallest loss.

    >>> minimum([3.0, 1.0, 2.0])
    1.0
    """
    return float(losses.index(min(losses)))


# A rule: which step's rate it takes, and what that is divided by.
RULES: dict[str, tuple[Callable[[list[float]], float], float]] = {
    "valley": (valley, 1.0),
    "steepest": (steepest, 1.0),
    "minimum": (minimum, 10.0),
}


@dataclass(frozen=True)
class RangeTest:
    """What a range test found: the rate of each step, its loss, and the loss smoothed.

    >>> test = RangeTest([1e-3, 1e-2, 1e-1, 1.0], [3.0, 2.0, 1.0, 9.0], [3.0, 2.0, 1.0, 9.0])
    >>> test.rate('minimum'), test.rate('steepest')
    (0.01, 0.01)
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    rule: str = "valley"

    @property
    def suggestion(self) -> float:
        """The rate by the test's rule."""
        return self.rate(self.rule)

    def rate(self, rule: str) -> float:
        """The rate by a rule: 'valley', 'steepest', or 'minimum' (a tenth of the minimum's rate).

        Errors: ValueError for an unknown rule.
        """
        choose, divisor = registry.find("rule", RULES, rule)
        place = choose(self.smoothed)
        low = int(place)
        high = min(low + 1, len(self.rates) - 1)
        # Between two steps the rate lies geometrically between theirs.
        logarithm = math.log(self.rates[low]) * (1 - place + low)
        logarithm += math.log(self.rates[high]) * (place - low)
        return float(f"{math.exp(logarithm) / divisor:.3g}")

    def to_json(self) -> str:
        """Rates, losses and every rule's rate as JSON."""
        return to_json(
            {
                "suggestion": self.suggestion,
                "rule": self.rule,
                "by_rule": {rule: self.rate(rule) for rule in RULES},
                "rates": self.rates,
                "losses": self.losses,
                "smoothed": self.smoothed,
            }
        )

    def plot(self, path: str | Path) -> None:
        """Write the picture, PNG if its ending says nothing else: the loss, and each rule's rate.

        Errors: ImportError naming the extra if matplotlib is missing.
        """
        from pyconvopt.pictures.drawing import BLUE, finished, new_figure, plain

        figure = new_figure(6, 4, "drawing the range test")
        axes = figure.subplots()
        axes.plot(self.rates, self.losses, ".", markersize=3, color="#9aa5b1", label="batch")
        axes.plot(self.rates, self.smoothed, color=BLUE, label="smoothed")
        for rule, colour in zip(RULES, ("#d1495b", "#edae49", "#66a182"), strict=True):
            rate = self.rate(rule)
            axes.axvline(rate, color=colour, linestyle="--", label=f"{rule}: {rate:g}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
        low, high = min(self.smoothed), max(self.smoothed[: len(self.smoothed) // 2 + 1])
        axes.set_ylim(low - 0.1 * (high - low), high + 0.6 * (high - low) + 1e-9)
        plain(axes)
        axes.legend(frameon=False)
        finished(figure, path)


def find_lr(
    model: Any,
    data: Any,
    *,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    batch_size: int = 32,
    seed: int = 0,
    smoothing: float = 0.9,
    stop_at: float = 4.0,
    rule: str = "valley",
) -> RangeTest:
    """Train a copy with a growing rate, and say which rate to use.

    Args: model (a `Trainer`, or a compiled `Sequential`), data (as for `fit`), low and high (the
    first and last rate; between them it grows by one factor a step), steps (100), batch_size (32),
    seed (of the order), smoothing (0.9: the share of the past in the smoothed loss), stop_at (4: the
    test ends when the smoothed loss is so many times the smallest), rule ('valley').

    Several parameter groups keep the ratios of their rates. Everything is left as it was: weights,
    statistics of batch norm, optimiser, gradients, modes, random states, the data's order. Under
    `torchrun` the processes share each batch, as in `fit`, and all find the same.

    Errors: ValueError for rates that do not grow, data that can be read only once, or a loss that is
    no number from the first steps on.

    >>> import torch
    >>> x = torch.randn(256, 4)
    >>> trainer = Trainer(torch.nn.Linear(4, 2), 'sgd')
    >>> test = find_lr(trainer, (x, (x[:, 0] > 0).long()))
    >>> 1e-6 < test.suggestion < 10, trainer.step_number
    (True, 0)
    """
    if not 0 < low < high:
        raise ValueError(f"the rates must grow from low > 0 to high, got {low} and {high}")
    if steps < 10:
        raise ValueError(f"steps must be 10 or more, got {steps}")
    registry.find("rule", RULES, rule)
    trainer = model if isinstance(model, Trainer) else model.trainer()
    loader = as_batches(data, batch_size, shuffle=True, seed=seed)
    if getattr(loader, "is_read_once", False):
        raise ValueError("find_lr would use a generator up: give a function that makes one")
    order = (loader.seed, loader.epoch) if isinstance(loader, ArrayLoader) else None
    with random_states_kept(own_generators(loader)):
        try:
            losses = falling_and_rising(trainer, loader, low, high, steps, smoothing, stop_at)
        finally:
            if isinstance(loader, ArrayLoader) and order is not None:
                loader.seed, loader.epoch = order
    rates = [rate_at(step, low, high, steps) for step in range(len(losses))]
    return RangeTest(rates, losses, smooth(losses, smoothing), rule)


def rate_at(step: int, low: float, high: float, steps: int) -> float:
    """low · (high / low)^(step / (steps - 1))."""
    return low * (high / low) ** (step / (steps - 1))


def smooth(losses: list[float], share: float) -> list[float]:
    """The running mean m ← share·m + (1 - share)·loss, without the pull of its start at 0.

    >>> smooth([1.0, 1.0], 0.9)
    [1.0, 1.0]
    """
    mean, smoothed = 0.0, []
    for step, loss in enumerate(losses):
        mean = share * mean + (1 - share) * loss
        smoothed.append(round(mean / (1 - share ** (step + 1)), 12))
    return smoothed


def twin_of(trainer: Trainer) -> Trainer:
    """A trainer that shares nothing that training changes."""
    twin = copy.copy(trainer)
    spec = trainer.optimizer_spec if isinstance(trainer.optimizer_spec, Optimizer) else None
    # The model may know its trainer: its copy is to know the twin, not a copy with all the data.
    memo = {id(trainer): twin}
    twin.model, twin.optimizer, spec = copy.deepcopy((trainer.model, trainer.optimizer, spec), memo)
    twin.optimizer_spec = trainer.optimizer_spec if spec is None else spec
    twin.loss_mean, twin.metrics, twin.callbacks = Average("loss"), [], []
    twin.schedule = twin.rate_at = None
    twin.accumulate, twin.wants_guard = 1, False
    return twin


def falling_and_rising(
    trainer: Trainer,
    loader: Loader,
    low: float,
    high: float,
    steps: int,
    smoothing: float,
    stop_at: float,
) -> list[float]:
    """The losses of a copy's steps, until they are far above the smallest."""
    twin = twin_of(trainer)
    twin.processes = join()
    twin.processes.align(loader)
    twin.run_length = (steps, twin.step_number + steps)
    twin.prepare(loader)
    count_updates(twin.model, twin.run_length, twin.step_number)
    twin.model.train()
    losses: list[float] = []
    batches = twin.processes.own(loader, Stream(loader, steps).epoch())
    for step, parts in enumerate(batches):
        set_rate(twin.optimizer, rate_at(step, low, high, steps), "the range test")
        twin.reset()
        twin.step(*parts, check_against=loader if step == 0 else None)
        loss = twin.loss_mean.result()
        if not math.isfinite(loss):
            break
        losses.append(loss)
        smoothed = smooth(losses, smoothing)
        if smoothed[-1] > stop_at * min(smoothed) and step >= 10:
            break
    if len(losses) < 3:
        raise ValueError(
            f"the loss is no number after {len(losses)} steps, at a rate of "
            f"{rate_at(len(losses), low, high, steps):.3g}: try a smaller low"
        )
    return losses
