"""Penalties on what a layer gives out, as Keras' `activity_regularizer`.

A forward hook keeps the output of the module's last call until the loss asks for its penalty,
regularizer(output) / N with N samples in the batch (as Keras 3 has it). The hook also keeps the
layer from being joined with its neighbours, where its output would never exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from pyconvopt.attaching import matching, require_floating


class ActivityWatch:
    """The hook: remembers one output of one module."""

    def __init__(self, regularizer: Any) -> None:
        self.regularizer = regularizer
        self.output: Tensor | None = None

    def __call__(self, module: Any, args: Any, kwargs: dict[str, Any], output: Tensor) -> None:
        """Called by torch after the module; a layer asked for logits stopped before its end."""
        require_floating(output, f"the output of {type(module).__name__}, which is penalised,")
        self.output = module.activation(output) if kwargs.get("logits") else output

    def take(self) -> Tensor | None:
        """The output, given once: its graph is not kept any longer than the loss needs it."""
        output, self.output = self.output, None
        return output

    def __getstate__(self) -> dict[str, Any]:
        return {"regularizer": self.regularizer, "output": None}


def watch(module: nn.Module, regularizer: Any) -> None:
    """Put a regulariser on the output of a module (None takes it away)."""
    hooks = module._forward_hooks
    for key in [key for key, hook in hooks.items() if isinstance(hook, ActivityWatch)]:
        del hooks[key], module._forward_hooks_with_kwargs[key]
    if regularizer is not None:
        module.register_forward_hook(ActivityWatch(regularizer), with_kwargs=True)


def watches(model: nn.Module) -> list[ActivityWatch]:
    """Every such hook of the model."""
    hooks = [hook for module in model.modules() for hook in module._forward_hooks.values()]
    return [hook for hook in hooks if isinstance(hook, ActivityWatch)]


def attach_activity(model: nn.Module, patterns: Mapping[str, Any]) -> list[str]:
    """Put regularisers on the outputs of modules, by name; returns the names it met.

    `patterns` maps shell patterns over `model.named_modules()` to regularisers (an object, a
    name, or None to take one away); the later of two patterns counts. A module that runs several
    times in one pass counts with its last output.

    Errors: ValueError for a pattern that meets no module; TypeError, when the model runs, for an
    output that is no tensor of floating-point numbers.

    >>> from pyconvopt import regularizers
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> attach_activity(model, {'1': regularizers.L1(1e-3)})
    ['1']
    """
    from pyconvopt.regularizers import get

    names = [name for name, _ in model.named_modules() if name]
    met: list[str] = []
    for pattern, spec in patterns.items():
        for name in matching(names, pattern, "module"):
            watch(model.get_submodule(name), get(spec))
            met += [] if name in met else [name]
    return met
