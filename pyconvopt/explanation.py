"""`explain`: which kernel each operation of a model gets, and why.

The model is run once. Every function of `pyconvopt.functional` notes what it chose while a list is
open here; a module of torch that notes nothing ran on torch's kernels, and gets a row that says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.nn.parameter import is_lazy

from pyconvopt.randomness import random_states_kept

COLUMNS = ("layer", "op", "pass", "kernel", "reason", "flops", "bytes")

_rows: list[dict[str, Any]] | None = None
_layer: list[str] = [""]


def listening() -> bool:
    """Whether a call of `explain` is under way: functions note their choices only then."""
    return _rows is not None


def note(op: str, pass_: str, kernel: str, reason: str, flops: float, tensors: list[Any]) -> None:
    """Add a row for one pass of an operation; `tensors` are what it reads and writes.

    A shape stands for a float32 tensor of that shape.
    """
    if _rows is not None:
        moved = sum(
            t.numel() * t.element_size() if isinstance(t, Tensor) else 4 * math.prod(t)
            for t in tensors
            if t is not None
        )
        row = (_layer[-1], op, pass_, kernel, reason, int(flops), int(moved))
        _rows.append(dict(zip(COLUMNS, row, strict=True)))


def run_as(name: str, step: Callable[..., Any], *arguments: Any) -> Any:
    """Run a step that joins several layers, its rows under `name`."""
    _layer.append(name)
    try:
        return step(*arguments)
    finally:
        _layer.pop()


class Explanation:
    """The table that `explain` gives: `print` it, or read `.rows`."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __str__(self) -> str:
        header = {name: name for name in COLUMNS}
        lines = [header] + [
            {**row, "flops": _short(row["flops"]), "bytes": _short(row["bytes"])}
            for row in self.rows
        ]
        widths = {name: max(len(str(line[name])) for line in lines) for name in COLUMNS}
        return "\n".join(
            "  ".join(str(line[name]).ljust(widths[name]) for name in COLUMNS).rstrip()
            for line in lines
        )

    __repr__ = __str__


def _short(number: float) -> str:
    for unit in ("", "k", "M", "G"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}T"


def explain(model: nn.Module, example_input: Any) -> Explanation:
    """Which kernel every operation of `model` gets for `example_input`, and why.

    Args:
        model: any torch model. It is run once in the mode it is in; its buffers (running
            statistics) and torch's random state are put back afterwards.
        example_input: what the model is called with: a tensor, or a tuple of its arguments. For
            models of `pyconvopt.models` an array (N, H, W, C) does too.

    Returns:
        A table to print, one row per layer and pass, with `.rows`: dicts with the keys ``layer, op,
        pass, kernel, reason, flops, bytes``. FLOPs are those of the operation's definition (two a
        multiplication and addition), whatever the algorithm saves; bytes what must at least be
        read and written.

    >>> import torch, pyconvopt as pco
    >>> model = torch.nn.Sequential(pco.nn.Conv2d(16, 16, 3), torch.nn.Sigmoid())
    >>> rows = pco.explain(model, torch.zeros(1, 16, 32, 32)).rows
    >>> [(r["layer"], r["pass"], r["kernel"]) for r in rows][:2]
    [('0', 'forward', 'winograd_f4x3'), ('0', 'data_gradient', 'winograd_f4x3')]
    """
    global _rows
    arguments = example_input if isinstance(example_input, tuple) else (example_input,)
    prepare = getattr(model, "prepare_example", None)
    if prepare is not None:
        arguments = tuple(prepare(a) for a in arguments)
    previous = _rows
    rows: list[dict[str, Any]] = []
    _rows = rows
    try:
        with _layers_followed(model), state_kept(model), torch.no_grad():
            model(*arguments)
    finally:
        _rows = previous
    return Explanation(rows)


@contextmanager
def _layers_followed(model: nn.Module) -> Iterator[None]:
    """While open, `_layer` names the module that runs, and silent leaf modules get a row.

    The hooks are torch's global ones: a module with hooks of its own is not fused with others.
    """
    names = {id(module): name for name, module in model.named_modules()}
    counts: list[int] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        _layer.append(names.get(id(module), _layer[-1]))
        counts.append(len(_rows or ()))

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        silent = counts.pop() == len(_rows or ())
        leaf = not any(True for _ in module.children())
        if leaf and silent and isinstance(output, Tensor):
            own = type(module).__module__.startswith("pyconvopt.")
            reason = (
                "torch's kernel: none of this library's is faster"
                if own
                else "a module of torch; pyconvopt.nn has the drop-in ones"
            )
            tensors = [t for t in (*inputs, output, *module.parameters()) if isinstance(t, Tensor)]
            note(type(module).__name__, "forward", "torch", reason, output.numel(), tensors)
        _layer.pop()

    handles = (
        register_module_forward_pre_hook(enter),
        register_module_forward_hook(leave),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        del _layer[1:]


@contextmanager
def state_kept(model: nn.Module) -> Iterator[None]:
    """While open the model may be run; buffers and random states are put back afterwards.

    A buffer that has kept its values is not written to: nobody is told of a change. Lazy statistics,
    which come to be in the run, are left as new ones.
    """
    lazy = [m for m in model.modules() if has_lazy_buffers(m)]
    buffers = [(b, b.clone()) for b in model.buffers() if not is_lazy(b)]
    try:
        with random_states_kept():
            yield
    finally:
        with torch.no_grad():
            for buffer, saved in buffers:
                if not torch.equal(buffer, saved):
                    buffer.copy_(saved)
            for module in lazy:
                reset = getattr(module, "reset_running_stats", None)
                if reset is not None and not has_lazy_buffers(module):
                    reset()


def has_lazy_buffers(module: nn.Module) -> bool:
    """Whether a buffer of the module's own gets its shape at the first call."""
    return any(map(is_lazy, module.buffers(recurse=False)))
