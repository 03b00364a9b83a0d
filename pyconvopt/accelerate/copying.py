"""A module tree copied with other classes, around the same parameters, buffers and hooks.

Only the modules themselves are new. The dictionaries of parameters, buffers and hooks are shared
with the original, not copied: whichever of the two models is moved, cast or hooked, both stay one
model. Plain attributes that hold modules of the tree (a list beside a ModuleList, a bound method)
point into the copy.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn

from .classes import PLANS


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
                copy.__dict__[name] = redirected(value, copies)
    return copies[id(model)]


def redirected(value: Any, copies: dict[int, nn.Module]) -> Any:
    """The value, with modules of the tree replaced by their copies; itself where it holds none."""
    if isinstance(value, nn.Module):
        return copies.get(id(value), value)
    if type(value) is MethodType:
        owner = redirected(value.__self__, copies)
        return value if owner is value.__self__ else MethodType(value.__func__, owner)
    if type(value) in (list, tuple, set):
        items = [redirected(item, copies) for item in value]
        changed = any(a is not b for a, b in zip(items, value, strict=True))
        return type(value)(items) if changed else value
    if type(value) is dict:
        entries = {k: redirected(v, copies) for k, v in value.items()}
        return entries if any(entries[k] is not v for k, v in value.items()) else value
    return value
