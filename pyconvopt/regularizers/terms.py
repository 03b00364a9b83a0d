"""Regularisers on a model: put there, summed, and what they reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyconvopt import attaching
from pyconvopt.regularizers.activity import ActivityWatch, watches
from pyconvopt.regularizers.base import Penalty, filters_first
from pyconvopt.regularizers.weights import ProximalL1

# The attribute of a module that maps the names of its own parameters to their regularisers.
SLOT = "parameter_regularizers"

RunLength = tuple[int | None, int | None]  # the steps of an epoch and of the run; None: unknown


def set_on(module: nn.Module, parameter: str, regularizer: Any) -> None:
    """Put a regulariser on one parameter of a module (None takes it away)."""
    attaching.set_on(module, SLOT, parameter, regularizer)


def attach(model: nn.Module, patterns: Mapping[str, Any]) -> list[str]:
    """Put regularisers on the parameters of any model, by name; returns the names it met.

    `patterns` maps shell patterns over `model.named_parameters()` to regularisers (an object,
    a name, or None to take one away). Where two patterns meet one parameter, the later counts;
    a regulariser that was there before is replaced.

    Errors: ValueError for a pattern that meets no parameter, TypeError for a parameter of whole
    numbers.

    >>> from pyconvopt.regularizers import L2
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    >>> attach(model, {'*.weight': L2(1e-4)})
    ['0.weight', '2.weight']
    """
    from pyconvopt.regularizers import get

    return attaching.attach(model, SLOT, patterns, get)


def applied(regularizer: Any, tensor: Tensor, step: int) -> Tensor:
    """The penalty at a step; a function of your own takes the tensor alone."""
    if isinstance(regularizer, Penalty):
        return regularizer(tensor, step)
    return regularizer(tensor)


class Term(NamedTuple):
    """One penalty: which parameter of which module, and its regulariser."""

    module: nn.Module
    parameter: str
    regularizer: Any

    def value(self, step: int) -> Tensor | None:
        """The penalty at that step; None while the weight is frozen."""
        weight = getattr(self.module, self.parameter)
        if isinstance(weight, nn.Parameter) and not weight.requires_grad:
            return None
        if isinstance(self.regularizer, Penalty):
            weight = filters_first(self.module, weight)
        return applied(self.regularizer, weight, step)


class ActivityTerm(NamedTuple):
    """One penalty on a module's output."""

    watch: ActivityWatch
    regularizer: Any

    def value(self, step: int) -> Tensor | None:
        """The penalty a sample of the output just seen; None before there is one."""
        output = self.watch.take()
        return None if output is None else applied(self.regularizer, output, step) / len(output)


Patterns = Mapping[str, Any]  # of parameters' names, to regularisers, as for `attach`


def penalised(
    model: nn.Module, patterns: Patterns | None = None
) -> list[tuple[nn.Module, str, Any]]:
    """(module, parameter, regulariser) of all weights that have one, as if `patterns` were attached.

    A weight of two modules that have the same regulariser for it is here once.
    """
    from pyconvopt.regularizers import get

    found: list[tuple[nn.Module, str, Any]] = []
    known: dict[int, list[Any]] = {}
    others = attaching.by_pattern(model, patterns or {}, get)
    for module, parameter, regularizer in attaching.attached(model, SLOT, others):
        weight = getattr(module, parameter)
        if isinstance(weight, nn.Parameter):  # not one that is computed anew each time
            regularizers = known.setdefault(id(weight), [])
            if regularizer in regularizers:
                continue
            regularizers.append(regularizer)
        found.append((module, parameter, regularizer))
    return found


def terms(
    model: nn.Module, run: RunLength | None = None, patterns: Patterns | None = None
) -> list[Term | ActivityTerm]:
    """Every penalty of the model; a loop that asks each step keeps this list.

    Weights that are frozen have none, as in Keras.

    `run`: the steps of an epoch and of the run, for strengths by a schedule that counts in these.
    `patterns`: regularisers that count as if they were attached.
    """
    weights = [
        Term(module, parameter, in_run(regularizer, run))
        for module, parameter, regularizer in penalised(model, patterns)
    ]
    outputs = [ActivityTerm(each, in_run(each.regularizer, run)) for each in watches(model)]
    return [*weights, *outputs]


def in_run(regularizer: Any, run: RunLength | None) -> Any:
    """A penalty whose strengths are counted in the steps of that run."""
    if run is None or not isinstance(regularizer, Penalty):
        return regularizer
    return regularizer.in_steps(*run)


def penalty(model: nn.Module | list[Term | ActivityTerm], step: int = 0) -> Tensor:
    """Σ of all penalties, a scalar tensor that gradients flow through; 0 if there are none.

    `step` counts where a strength is a function of it. Call it after the forward pass: penalties
    on outputs are those of the last one.

    >>> from pyconvopt.regularizers import L2
    >>> model = nn.Linear(2, 1, bias=False)
    >>> _ = nn.init.constant_(model.weight, 2.0), attach(model, {'weight': L2(0.5)})
    >>> penalty(model).item()  # 0.25 · (4 + 4)
    2.0
    """
    found = model if isinstance(model, list) else terms(model)
    values = [value for each in found if (value := each.value(step)) is not None]
    if not values:
        return torch.zeros(())
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


class ProximalTerm(NamedTuple):
    """A weight with its proximal step, and where the optimiser keeps its learning rate.

    The group is looked up each time: `optimizer.load_state_dict` puts new ones in its place.
    """

    weight: Tensor
    regularizer: ProximalL1
    optimizer: Any
    group: int

    @property
    def is_plain(self) -> bool:
        """Whether the step is the soft threshold alone: no subclass that may do something else."""
        return type(self.regularizer) is ProximalL1

    @property
    def rate(self) -> float:
        """The learning rate of the weight's group."""
        return self.optimizer.param_groups[self.group]["lr"]

    def threshold(self, step: int) -> float:
        """How far the step moves a weight towards 0."""
        return self.regularizer.threshold(self.rate, step)

    def apply(self, step: int) -> None:
        """Take the step, in place, unless the weight is frozen."""
        if self.weight.requires_grad:
            self.regularizer.shrink(self.weight, self.rate, step)


def proximal_terms(
    model: nn.Module,
    optimizer: Any,
    run: RunLength | None = None,
    patterns: Patterns | None = None,
) -> list[ProximalTerm]:
    """The proximal steps of the weights that the optimiser trains; the rest as for `terms`."""
    found = [
        (getattr(module, parameter), in_run(regularizer, run))
        for module, parameter, regularizer in penalised(model, patterns)
        if isinstance(regularizer, ProximalL1)
    ]
    if not found:
        return []
    groups = {
        id(weight): number
        for number, group in enumerate(optimizer.param_groups)
        for weight in group["params"]
    }
    return [
        ProximalTerm(weight, regularizer, optimizer, groups[id(weight)])
        for weight, regularizer in found
        if id(weight) in groups
    ]


def proximal_step(model: nn.Module, optimizer: Any, step: int = 0) -> None:
    """Take the proximal steps of a model; `Trainer` does so by itself.

    Call it after `optimizer.step()`; each weight moves by its group's learning rate.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> _ = nn.init.constant_(model.weight, 0.05), attach(model, {'weight': ProximalL1(1.0)})
    >>> proximal_step(model, torch.optim.SGD(model.parameters(), lr=0.1))
    >>> sparsity(model)
    1.0
    """
    for each in proximal_terms(model, optimizer):
        each.apply(step)


def sparsity(model: nn.Module, pattern: str = "*") -> float:
    """The share of weights that are exactly 0, of the parameters whose name meets the pattern.

    Errors: ValueError for a pattern that meets no parameter.

    >>> model = nn.Linear(2, 2)
    >>> _ = nn.init.eye_(model.weight), nn.init.ones_(model.bias)
    >>> sparsity(model), sparsity(model, '*weight')
    (0.3333333333333333, 0.5)
    """
    found = dict(model.named_parameters())
    weights = [found[name] for name in attaching.parameters_matching(model, pattern)]
    zeros = sum(weight.numel() - int(weight.count_nonzero()) for weight in weights)
    return zeros / sum(weight.numel() for weight in weights)
