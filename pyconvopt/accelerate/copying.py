"""A module tree copied with other classes, around the same parameters, buffers and hooks.

Only the modules themselves are new. The dictionaries of parameters, buffers and hooks are shared
with the original, not copied: whichever of the two models is moved, cast or hooked, both stay one
model. Plain attributes that hold modules of the tree (a list beside a ModuleList, a bound method, a
function made in ``__init__``, an object of a class of the user's) point into the copy; so do hooks that
are methods of the tree's modules, and only then has the copy hooks of its own. Objects that only hooks
belong to are not copied: they are where their owner looks for what a hook has noted.
"""

from __future__ import annotations

import io
import logging
import threading
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.process import BaseProcess
from types import CellType, FunctionType, MemberDescriptorType, MethodType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, Sampler

from .classes import PLANS

HOOKS = {name for name in vars(nn.Module()) if name.endswith("_hooks")}
# Objects that stay one, whatever they hold.
_SINGLE = (
    type, Tensor, nn.Module, torch.optim.Optimizer, LRScheduler, DataLoader, Dataset, Sampler,
    threading.Thread, BaseProcess, io.IOBase, logging.Logger, logging.Handler,
)  # fmt: skip
DEPTH = 8
"""So deep within each other are objects looked into."""
_HEAP = 1 << 9


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
    copies: dict[int, Any] = {}
    hooked: list[tuple[nn.Module, str, Any]] = []
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
            elif name in HOOKS:
                copy.__dict__[name] = value
                if not is_torchs(value):
                    hooked.append((copy, name, value))
            elif name != PLANS:
                copy.__dict__[name] = redirected(value, copies, objects=True)
    for copy, name, hooks in hooked:  # when all objects that are to be copied have been
        copy.__dict__[name] = redirected(hooks, copies, objects=False)
    return copies[id(model)]


def is_torchs(hooks: Any) -> bool:
    """Whether they are torch's alone, which go by the module they are called with (of lazy layers)."""
    return all(
        (getattr(hook, "__module__", None) or "").startswith("torch.") for hook in hooks.values()
    )


def redirected(
    value: Any, copies: dict[int, Any], objects: bool, around: frozenset[int] = frozenset()
) -> Any:
    """The value, with modules of the tree replaced by their copies; itself where it holds none.

    copies: by the originals' ids; those of plain objects, where `objects` are to be copied, are added.
    around: what it was found in, for a function or list that holds itself.
    """
    if id(value) in copies:
        return copies[id(value)]
    kind = kind_of(value)
    if kind in PARTS and id(value) not in around:
        take_apart, build = PARTS[kind]
        parts = take_apart(value)
        inside = around | {id(value)}
        moved = [redirected(part, copies, objects, inside) for part in parts]
        changed = any(a is not b for a, b in zip(moved, parts, strict=True))
        return build(value, moved) if changed else value
    if objects and is_plain(value) and leads_to_module(value, copies, set()):
        copy = copies[id(value)] = object.__new__(type(value))
        for name, part in getattr(value, "__dict__", {}).items():
            copy.__dict__[name] = redirected(part, copies, objects, around)
        for slot, part in slots(value):
            slot.__set__(copy, redirected(part, copies, objects, around))
        return copy
    return value


def kind_of(value: Any) -> type:
    """The type under which `PARTS` knows it."""
    cls = type(value)
    return NamedTuple if issubclass(cls, tuple) and hasattr(cls, "_fields") else cls


def leads_to_module(value: Any, copies: dict[int, Any], seen: set[int], depth: int = DEPTH) -> bool:
    """Whether the value holds, over other objects too, one that is copied."""
    if copies.get(id(value), value) is not value:
        return True
    kind = kind_of(value)
    if kind in PARTS:
        parts = PARTS[kind][0](value)
    elif depth and is_plain(value):
        parts = [*getattr(value, "__dict__", {}).values(), *(part for _, part in slots(value))]
        depth -= 1
    else:
        return False
    if id(value) in seen:
        return False
    seen.add(id(value))
    return any(leads_to_module(part, copies, seen, depth) for part in parts)


def is_plain(value: Any) -> bool:
    """Whether it is an object of a Python class, of no other content than its attributes.

    One with ``__del__`` owns something else beside them.
    """
    cls: Any = type(value)
    if not cls.__flags__ & _HEAP or hasattr(cls, "__del__") or isinstance(value, _SINGLE):
        return False
    try:
        object.__new__(cls)
    except TypeError:  # there is a type of C's among its bases
        return False
    return True


def slots(value: Any) -> list[tuple[Any, Any]]:
    """The object's attributes outside ``__dict__``: descriptor and value."""
    found = []
    for cls in type(value).__mro__:
        for member in vars(cls).values():
            if isinstance(member, MemberDescriptorType):
                with suppress(AttributeError):  # not given a value yet
                    found.append((member, member.__get__(value)))
    return found


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


def held_by(function: FunctionType) -> list[Any]:
    """What its closure and its defaults hold."""
    named = function.__kwdefaults__ or {}
    return [*cells(function), *(function.__defaults__ or ()), *named.values()]


def holding(function: FunctionType, parts: list[Any]) -> FunctionType:
    """The function over other contents of its closure, with other defaults."""
    new = iter(parts)
    closure = tuple(
        CellType(next(new)) if holds(cell) else cell for cell in function.__closure__ or ()
    )
    defaults, named = function.__defaults__, function.__kwdefaults__
    defaults = defaults and tuple(next(new) for _ in defaults)
    made = FunctionType(
        function.__code__, function.__globals__, function.__name__, defaults, closure
    )
    made.__kwdefaults__ = named and {name: next(new) for name in named}
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


class NamedTuple(tuple):
    """Stands for all classes of named tuples."""


# How to take apart what may hold modules, and to build it of other parts.
PARTS: dict[type, tuple[Callable[[Any], list[Any]], Callable[[Any, list[Any]], Any]]] = {
    list: (list, rebuilt),
    tuple: (list, rebuilt),
    set: (list, rebuilt),
    NamedTuple: (list, lambda value, items: tuple.__new__(type(value), items)),
    deque: (list, lambda value, items: deque(items, value.maxlen)),
    dict: (lambda value: [*value.values()], refilled),
    OrderedDict: (lambda value: [*value.values()], refilled),
    defaultdict: (
        lambda value: [value.default_factory, *value.values()],
        lambda value, items: defaultdict(items[0], zip(value, items[1:], strict=True)),
    ),
    weakref.ref: (
        lambda value: [each for each in [value()] if isinstance(each, nn.Module)],
        lambda value, items: weakref.ref(items[0], value.__callback__),
    ),
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
    FunctionType: (held_by, holding),
}
