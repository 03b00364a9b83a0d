"""A module tree copied with other classes, around the same parameters, buffers and hooks.

Only the modules themselves are new. The dictionaries of parameters, buffers and hooks are shared
with the original, not copied: whichever of the two models is moved, cast or hooked, both stay one
model. Plain attributes that hold modules of the tree (a list beside a ModuleList, a bound method, a
function made in ``__init__``) point into the copy; so do hooks that are methods of the tree's modules, and
only then has the copy hooks of its own.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from types import CellType, FunctionType, MethodType, SimpleNamespace
from typing import Any

import torch
from torch import nn

from .classes import PLANS

HOOKS = {name for name in vars(nn.Module()) if name.endswith("_hooks")}


def require_model(model: Any) -> None:
    """Refuse what cannot be taken apart, with the remedy."""
    if not isinstance(model, nn.Module):
        hint = ": pass an instance" if isinstance(model, type) else ""
        raise TypeError(f"model must be a torch.nn.Module, got {model!r}{hint}")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("model is TorchScript: accelerate it before torch.jit.script or trace")
    if is_compiled(model) or type(model).__module__.startswith(
        ("torch.nn.parallel", "torch.distributed")
    ):
        raise ValueError(
            f"model is wrapped in {type(model).__name__}: accelerate or restore the model inside, "
            "then wrap it"
        )


def is_compiled(module: nn.Module) -> bool:
    """Whether the module is what ``torch.compile`` returned (asked without importing Dynamo)."""
    return type(module).__module__ == "torch._dynamo.eval_frame"


def copy_tree(model: nn.Module, class_of: Callable[[nn.Module], type]) -> nn.Module:
    """The tree under `model` with the class that `class_of` names for each module."""
    copies: dict[int, nn.Module] = {}
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule) or is_compiled(module):
            copies[id(module)] = module  # one piece with its compiled code
        else:
            copies[id(module)] = object.__new__(class_of(module))
    for module in model.modules():
        copy = copies[id(module)]
        if copy is module:
            continue
        for name, value in vars(module).items():
            if name == "_modules":
                children = ((k, copies.get(id(m), m)) for k, m in value.items())
                copy.__dict__[name] = type(value)(children)
            elif name != PLANS:
                kept = is_torchs(name, value)
                copy.__dict__[name] = value if kept else redirected(value, copies)
    return copies[id(model)]


def is_torchs(name: str, value: Any) -> bool:
    """Whether it is hooks of torch's alone, which go by the module they are called with (of lazy layers)."""
    return name in HOOKS and all(
        (getattr(hook, "__module__", None) or "").startswith("torch.") for hook in value.values()
    )


def redirected(
    value: Any, copies: dict[int, nn.Module], around: frozenset[int] = frozenset()
) -> Any:
    """The value, with modules of the tree replaced by their copies; itself where it holds none.

    `around`: what it was found in, for a function or list that holds itself.
    """
    if isinstance(value, nn.Module):
        return copies.get(id(value), value)
    if type(value) in PARTS and id(value) not in around:
        take_apart, build = PARTS[type(value)]
        parts = take_apart(value)
        moved = [redirected(part, copies, around | {id(value)}) for part in parts]
        changed = any(a is not b for a, b in zip(moved, parts, strict=True))
        return build(value, moved) if changed else value
    return value


def cells(function: FunctionType) -> list[Any]:
    """What a function's closure holds."""
    return [cell.cell_contents for cell in function.__closure__ or () if holds(cell)]


def holds(cell: CellType) -> bool:
    """Whether the variable has been given a value yet."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def closing_over(function: FunctionType, contents: list[Any]) -> FunctionType:
    """The function over other contents of its closure."""
    new = iter(contents)
    closure = tuple(
        CellType(next(new)) if holds(cell) else cell for cell in function.__closure__ or ()
    )
    made = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, closure
    )
    made.__kwdefaults__ = function.__kwdefaults__
    made.__dict__.update(function.__dict__)
    return made


def method_of(method: MethodType, owner: Any) -> MethodType:
    """The method of another object, of which its class may have one of its own."""
    name, function = method.__name__, method.__func__
    if getattr(type(method.__self__), name, None) is function:
        function = getattr(type(owner), name, function)
    return MethodType(function, owner)


def rebuilt(value: Any, items: list[Any]) -> Any:
    """A container of the same kind."""
    return type(value)(items)


def refilled(value: Any, items: list[Any]) -> Any:
    """A dictionary of the same kind and keys."""
    return type(value)(zip(value, items, strict=True))


# How to take apart what may hold modules, and to build it of other parts.
PARTS: dict[type, tuple[Callable[[Any], list[Any]], Callable[[Any, list[Any]], Any]]] = {
    list: (list, rebuilt),
    tuple: (list, rebuilt),
    set: (list, rebuilt),
    deque: (list, lambda value, items: deque(items, value.maxlen)),
    dict: (lambda value: [*value.values()], refilled),
    OrderedDict: (lambda value: [*value.values()], refilled),
    SimpleNamespace: (
        lambda value: [*vars(value).values()],
        lambda value, items: SimpleNamespace(**dict(zip(vars(value), items, strict=True))),
    ),
    MethodType: (lambda value: [value.__self__], lambda value, items: method_of(value, *items)),
    partial: (
        lambda value: [value.func, *value.args, *value.keywords.values()],
        lambda value, items: partial(
            items[0],
            *items[1 : 1 + len(value.args)],
            **dict(zip(value.keywords, items[1 + len(value.args) :], strict=True)),
        ),
    ),
    FunctionType: (cells, closing_over),
}
