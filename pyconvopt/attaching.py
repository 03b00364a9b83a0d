"""Methods that sit beside a parameter: on the module that owns it, under the parameter's name.

A slot is an attribute of the module, a mapping from its parameters' names to methods. Regularisers
and constraints each have theirs. Layers fill it from their arguments, `attach` by patterns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from pyconvopt import registry


def matching(names: list[str], pattern: str, what: str) -> list[str]:
    """The names that a shell pattern meets; ValueError if there are none.

    >>> matching(['0.weight', '0.bias', '2.weight'], '*.weight', 'parameter')
    ['0.weight', '2.weight']
    """
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        near = registry.nearest(pattern, names)
        hint = f"did you mean {near!r}? This" if near else "this"
        raise ValueError(
            f"no {what} is named like {pattern!r}; {hint} model has {', '.join(names) or 'none'}"
        )
    return found


def parameters_matching(model: nn.Module, pattern: str) -> list[str]:
    """The names of a model's parameters that a shell pattern meets, each parameter once.

    A parameter that has several names is met by any of them, and called by its first.

    Errors: ValueError for a pattern that meets none.

    >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    >>> model[1].weight = model[0].weight
    >>> parameters_matching(model, '1.weight')
    ['0.weight']
    """
    named = list(model.named_parameters(remove_duplicate=False))
    first = {id(parameter): name for name, parameter in reversed(named)}
    met = set(matching([name for name, _ in named], pattern, "parameter"))
    return list(dict.fromkeys(first[id(parameter)] for name, parameter in named if name in met))


def require_floating(tensor: Any, what: str) -> None:
    """Refuse anything but a tensor of floating-point numbers.

    >>> require_floating(torch.tensor([1]), 'a weight')
    Traceback (most recent call last):
    TypeError: a weight must be a tensor of floating-point numbers, got dtype torch.int64
    """
    if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
        got = f"dtype {tensor.dtype}" if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise TypeError(f"{what} must be a tensor of floating-point numbers, got {got}")


def set_on(module: nn.Module, slot: str, parameter: str, method: Any) -> None:
    """Put a method on one parameter of a module (None takes it away)."""
    table = dict(getattr(module, slot, {}))
    table.pop(parameter, None)
    if method is not None:
        table[parameter] = method
    setattr(module, slot, table)


def by_pattern(
    model: nn.Module, patterns: Mapping[str, Any], get: Callable[[Any], Any]
) -> dict[str, Any]:
    """The method of each parameter that patterns over `model.named_parameters()` meet, by its name.

    `get` makes a method of what stands behind a pattern. The later of two patterns counts.

    Errors: ValueError for a pattern that meets nothing, TypeError for a parameter of whole numbers.
    """
    parameters = dict(model.named_parameters())
    met: dict[str, Any] = {}
    for pattern, spec in patterns.items():
        for name in parameters_matching(model, pattern):
            require_floating(parameters[name], f"parameter {name}")
            met[name] = get(spec)
    return met


def attach(
    model: nn.Module, slot: str, patterns: Mapping[str, Any], get: Callable[[Any], Any]
) -> list[str]:
    """Fill a slot with the methods of `by_pattern`; the names met, each once."""
    met = by_pattern(model, patterns, get)
    for name, method in met.items():
        owner, _, parameter = name.rpartition(".")
        set_on(model.get_submodule(owner), slot, parameter, method)
    return list(met)


def attached(
    model: nn.Module, slot: str, others: Mapping[str, Any] | None = None
) -> Iterator[tuple[nn.Module, str, Any]]:
    """(module, parameter, method) of everything in a slot of the model's modules.

    `others`: methods by the names of parameters that stand in the place of those in the slot.
    """
    instead: dict[nn.Module, dict[str, Any]] = {}
    for name, method in (others or {}).items():
        owner, _, parameter = name.rpartition(".")
        instead.setdefault(model.get_submodule(owner), {})[parameter] = method
    for module in model.modules():
        methods = {**getattr(module, slot, {}), **instead.get(module, {})}
        for parameter, method in methods.items():
            if method is not None:
                yield module, parameter, method
