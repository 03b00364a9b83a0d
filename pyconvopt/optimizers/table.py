"""Optimisers by name: the table, and `get`, which looks things up in it."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from pyconvopt import registry
from pyconvopt.optimizers import copying, formulas
from pyconvopt.optimizers.fused import SGD, Adam, AdamW
from pyconvopt.optimizers.groups import parameter_groups
from pyconvopt.optimizers.hypergradient import HypergradientDescent
from pyconvopt.optimizers.muon import Muon
from pyconvopt.optimizers.wrappers import SAM, Lookahead
from pyconvopt.schedules.base import require_rate


@dataclass(frozen=True)
class FromLibrary:
    """An optimiser of the package pytorch-optimizer, which is imported when one is made."""

    name: str
    hidden: tuple[tuple[str, Any], ...] = ()  # settings that its signature does not show

    def __call__(self, parameters: Any, **settings: Any) -> Optimizer:
        """The optimiser; TypeError for a setting it does not have."""
        # Its constructors swallow what they do not know, and a misspelt setting with it.
        known = list(inspect.signature(copying.library(self.name)).parameters)[1:]
        for name in settings:
            if name not in known:
                raise TypeError(str(registry.unknown(f"setting of {self.name}", name, known)))
        return copying.from_library(self.name)(parameters, **settings, **dict(self.hidden))


OPTIMIZERS: dict[str, tuple[Callable[..., Optimizer], dict[str, Any]]] = {
    "sgd": (SGD, {"lr": 0.01}),
    "nesterov": (SGD, {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    "adam": (Adam, {"lr": 1e-3, "eps": 1e-7}),
    "adamw": (AdamW, {"lr": 1e-3, "eps": 1e-7, "weight_decay": 0.004}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 1e-3, "alpha": 0.9, "eps": 1e-7}),
    "adagrad": (torch.optim.Adagrad, {"lr": 1e-3, "initial_accumulator_value": 0.1, "eps": 1e-7}),
    "adadelta": (torch.optim.Adadelta, {"lr": 1e-3, "rho": 0.95, "eps": 1e-7}),
    "adamax": (torch.optim.Adamax, {"lr": 1e-3, "eps": 1e-7}),
    "nadam": (torch.optim.NAdam, {"lr": 1e-3, "eps": 1e-7}),
    "radam": (torch.optim.RAdam, {"lr": 1e-3, "eps": 1e-7}),
    "muon": (Muon, {}),
    "lion": (FromLibrary("Lion"), {"lr": 1e-3}),
    # As in the paper: the decay within the trust ratio, and lr not divided by 1 − β₁ᵗ, which would
    # make the first step ten times as long.
    "lamb": (
        FromLibrary("Lamb", (("adam_debias", True),)),
        {"lr": 1e-3, "weight_decouple": False},
    ),
    "lars": (FromLibrary("LARS"), {}),
    "soap": (FromLibrary("SOAP"), {}),
    "shampoo": (FromLibrary("Shampoo"), {}),
    # Around another optimiser, `base`; other settings are that one's.
    "sam": (SAM, {}),
    "lookahead": (Lookahead, {}),
    "sgd_hd": (HypergradientDescent, {"base": "sgd", "lr": 1e-3, "hypergrad_lr": 1e-3}),
    "adam_hd": (HypergradientDescent, {"base": "adam", "lr": 1e-3, "hypergrad_lr": 1e-7}),
    # Without a learning rate to choose: lr is a factor on the one they find, 1 by default.
    "prodigy": (FromLibrary("Prodigy"), {}),
    "dadapt_sgd": (FromLibrary("DAdaptSGD"), {}),
    "dadapt_adam": (FromLibrary("DAdaptAdam"), {}),
    # Without a schedule; `averaging.ScheduleFree` evaluates them at their averaged weights.
    "schedule_free_sgd": (FromLibrary("ScheduleFreeSGD"), {}),
    "schedule_free_adamw": (FromLibrary("ScheduleFreeAdamW"), {}),
}
"""By name: the class, and Keras' default settings where they are not the class's."""


def get(
    spec: Any,
    parameters: nn.Module | Iterable[Any],
    no_decay: str | Sequence[str] | None = None,
    **options: Any,
) -> Optimizer:
    """An optimiser for `parameters`, from a name, a callable, or an optimiser itself.

    The names, with formulas, defaults and sources: `pyconvopt.optimizers.formulas`, which `help` shows
    below.

    Args:
        spec: a name of `OPTIMIZERS` (with Keras' default settings), something that makes an
            optimiser of the parameters (a class, a `functools.partial`, a function), a ready
            optimiser, which is returned as it is, or {"name": ..., "config": {settings}}.
        parameters: tensors, torch's groups of them, or a model.
        no_decay: with a model, what is spared the weight decay: `parameter_groups`' no_decay_on,
            such as ("bias", "norm").
        options: settings for the name or the callable, such as `lr=0.1`.

    Errors: ValueError for an unknown name, a learning rate below 0, NaN or infinity, for options
    beside a ready optimiser, or no_decay without a model; TypeError for an option the optimiser
    does not have, or something that is neither; ImportError naming the extra where
    pytorch-optimizer is needed and missing.

    >>> get("adam", [torch.nn.Parameter(torch.ones(1))], lr=0.01).param_groups[0]["lr"]
    0.01
    >>> optimizer = get("adamw", nn.Conv2d(1, 8, 3), no_decay=("bias",), weight_decay=0.1)
    >>> [group["weight_decay"] for group in optimizer.param_groups]
    [0.1, 0.0]
    >>> try:
    ...     get("adan", [torch.nn.Parameter(torch.ones(1))])
    ... except ValueError as error:
    ...     print(str(error).split("?")[0])
    unknown optimizer 'adan': did you mean 'adam'
    """
    if isinstance(spec, Mapping):
        settings = {"no_decay": no_decay, **spec.get("config", {}), **options}
        return get(spec["name"], parameters, **settings)
    if isinstance(spec, Optimizer):
        if options or no_decay:
            given = [*options, "no_decay"] if no_decay else [*options]
            raise ValueError(
                f"options ({', '.join(given)}) given beside a ready optimizer: "
                "set them where it is made"
            )
        return spec
    if isinstance(parameters, nn.Module):
        parameters = parameter_groups(parameters, no_decay_on=no_decay or ())
    elif no_decay:
        raise ValueError(
            "no_decay sorts parameters by their modules and names: give the model in their place"
        )
    if isinstance(spec, str):
        make, defaults = registry.find("optimizer", OPTIMIZERS, spec)
        return with_checked_rates(make(parameters, **{**defaults, **options}))
    if not callable(spec):
        raise TypeError(
            f"optimizer must be a name, a callable of the parameters or an optimizer, got {spec!r}"
        )
    made = spec(parameters, **options)
    if not isinstance(made, Optimizer):
        raise TypeError(f"optimizer: {spec!r} returned {made!r}, which is no torch optimizer")
    return with_checked_rates(made)


def with_checked_rates(optimizer: Optimizer) -> Optimizer:
    """The optimiser; some take NaN and infinity for a learning rate."""
    for group in optimizer.param_groups:
        if group.get("lr") is not None:
            require_rate(float(group["lr"]), "lr")
    return optimizer


if get.__doc__ and formulas.__doc__:  # python -OO has none
    get.__doc__ += "\n" + textwrap.indent(formulas.__doc__, "    ")
