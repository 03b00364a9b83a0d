"""What a node of a graph does, in the terms that fusion knows.

A layer called as a module and the same operation called as a function (``F.relu(x)``, ``x.relu()``,
``a + b``) are one `Operation`. Its `extra` are the node's arguments beside the input; `bind` makes
of them, at the call, the arguments of this library's function: a module's are read from it then.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Node

from .. import functional
from .. import nn as own
from ..autograd.norm import NAMES
from ..functional.gate import pair
from ..nn.conv_norm_act import FUSED

CONVOLUTION, NORMALIZATION, RELU, RELU6, HARDSWISH, POOL, DROPOUT, ADD = (
    "convolution", "normalization", "relu", "relu6", "hardswish", "pool", "dropout", "add",
)  # fmt: skip
AVERAGE, FLATTEN, DENSE = "average", "flatten", "dense"
WINDOWS = "windows"  # a max-pool over others than 2×2, which is `POOL`
ACTIVATIONS = tuple(
    name for name in NAMES if name
)  # the kinds are named as the functions take them


@dataclass
class Operation:
    """One operation. `in_place`: it writes over its input."""

    kind: str
    node: Node
    input: Node
    extra: tuple[Any, ...] = ()
    bind: Callable[..., Any] = field(default=lambda *extra: extra)
    module: nn.Module | None = None
    in_place: bool = False

    @property
    def name(self) -> str:
        """As `explain` shows it: the module's path, or the function's node."""
        return str(self.node.target) if self.node.op == "call_module" else self.node.name


def operation(node: Node, modules: Mapping[str, nn.Module]) -> Operation | None:
    """What the node does, or None for something that is never fused."""
    if node.op == "call_module":
        return _of_module(node, modules[str(node.target)])
    if node.op not in ("call_function", "call_method"):
        return None
    recognise = _FUNCTIONS.get(node.target)
    if recognise is None:
        return None
    try:
        found = recognise(node, *node.args, **node.kwargs)
    except TypeError:  # arguments that the function will refuse itself
        return None
    return found if found is not None and isinstance(found.input, Node) else None


# --- layers ----------------------------------------------------------------------------------------


def _of_module(node: Node, module: nn.Module) -> Operation | None:
    from ..hooks import has_hooks
    from .classes import layer_class

    recognise = _MODULES.get(layer_class(module))
    one_input = len(node.args) == 1 and not node.kwargs and isinstance(node.args[0], Node)
    if recognise is None or not one_input or has_hooks(module):
        return None
    return recognise(node, node.args[0], module)


def _conv_module(node: Node, x: Node, m: Any) -> Operation | None:
    if m.padding_mode != "zeros":
        return None

    def bind() -> tuple[Any, ...]:
        return m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups

    return Operation(CONVOLUTION, node, x, bind=bind, module=m)


def _batch_norm_module(node: Node, x: Node, m: Any) -> Operation:
    def bind() -> tuple[Any, ...]:
        mean, var, use_batch, momentum = m.statistics()
        return mean, var, m.weight, m.bias, use_batch, momentum, m.eps

    return Operation(NORMALIZATION, node, x, bind=bind, module=m)


def _pool_module(node: Node, x: Node, m: Any) -> Operation | None:
    def bind() -> tuple[Any, ...]:
        return m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode

    return _of_windows(node, x, (*bind(), m.return_indices), bind, m)


def _dropout_module(node: Node, x: Node, m: Any) -> Operation:
    rate = (lambda: float(m.p)) if m.training else (lambda: 0.0)
    return Operation(DROPOUT, node, x, bind=rate, module=m, in_place=m.inplace)


def _average_module(node: Node, x: Node, m: Any) -> Operation | None:
    return _adaptive_average(node, x, m.output_size, module=m)


def _flatten_module(node: Node, x: Node, m: Any) -> Operation | None:
    return _flatten(node, x, m.start_dim, m.end_dim, module=m)


def _dense_module(node: Node, x: Node, m: Any) -> Operation:
    return Operation(DENSE, node, x, bind=lambda: (m.weight, m.bias), module=m)


def _activation_module(kind: str) -> Callable[..., Operation]:
    return lambda node, x, m: Operation(kind, node, x, module=m, in_place=m.inplace)


_MODULES: dict[type, Callable[..., Operation | None]] = {
    own.Conv2d: _conv_module,
    own.BatchNorm2d: _batch_norm_module,
    **{kind: _activation_module(name) for kind, name in FUSED.items()},
    own.MaxPool2d: _pool_module,
    own.Dropout: _dropout_module,
    own.AdaptiveAvgPool2d: _average_module,
    nn.Flatten: _flatten_module,
    own.Linear: _dense_module,
}


def _of_windows(
    node: Node,
    x: Node,
    windows: tuple[Any, ...],
    bind: Callable[..., Any],
    module: nn.Module | None = None,
) -> Operation | None:
    if windows[-1] or any(isinstance(each, Node) for each in windows):  # indices are wanted
        return None
    return Operation(POOL if _is_2x2(*windows[:-1]) else WINDOWS, node, x, bind=bind, module=module)


def _is_2x2(kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: Any) -> bool:
    return (
        pair(kernel) == (2, 2)
        and (stride in (None, (), []) or pair(stride) == (2, 2))
        and pair(padding) == (0, 0)
        and pair(dilation) == (1, 1)
        and not ceil
    )


# --- functions -------------------------------------------------------------------------------------


def _conv(
    node: Node, input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: Any = 1,
) -> Operation:  # fmt: skip
    return Operation(CONVOLUTION, node, input, (weight, bias, stride, padding, dilation, groups))


def _batch_norm(
    node: Node, input: Any, running_mean: Any, running_var: Any, weight: Any = None,
    bias: Any = None, training: Any = False, momentum: Any = 0.1, eps: Any = 1e-5,
) -> Operation:  # fmt: skip
    extra = (running_mean, running_var, weight, bias, training, momentum, eps)
    return Operation(NORMALIZATION, node, input, extra)


def _activation(kind: str) -> Callable[..., Operation]:
    def recognise(node: Node, input: Any, inplace: bool = False) -> Operation:
        name = node.target if isinstance(node.target, str) else node.target.__name__  # type: ignore[union-attr]
        return Operation(kind, node, input, in_place=inplace or name.endswith("_"))

    return recognise


_relu = _activation(RELU)


def _pool(
    node: Node, input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0,
    dilation: Any = 1, ceil_mode: Any = False, return_indices: Any = False,
) -> Operation | None:  # fmt: skip
    windows = (kernel_size, stride, padding, dilation, ceil_mode)
    return _of_windows(node, input, (*windows, return_indices), lambda: windows)


def _dropout(
    node: Node, input: Any, p: Any = 0.5, training: Any = True, inplace: Any = False
) -> Operation | None:
    if isinstance(p, Node) or isinstance(training, Node):
        return None
    rate = float(p) if training else 0.0
    return Operation(DROPOUT, node, input, bind=lambda: rate, in_place=bool(inplace))


def _add(
    node: Node, input: Any, other: Any, *, alpha: Any = 1, out: Any = None
) -> Operation | None:
    if not isinstance(other, Node) or alpha != 1 or out is not None:
        return None
    in_place = node.target in (operator.iadd, "add_")
    return Operation(ADD, node, input, (other,), in_place=in_place)


def _adaptive_average(
    node: Node, input: Any, output_size: Any, module: nn.Module | None = None
) -> Operation | None:
    if output_size not in (1, (1, 1), [1, 1]):
        return None
    return Operation(
        AVERAGE, node, input, bind=lambda x: functional.adaptive_avg_pool2d(x, 1), module=module
    )


def _mean(node: Node, input: Any, dim: Any = None, keepdim: Any = False) -> Operation | None:
    over = sorted(dim) if isinstance(dim, list | tuple) else dim
    if over not in ([2, 3], [-2, -1]) or not isinstance(keepdim, bool):
        return None
    return Operation(AVERAGE, node, input, bind=lambda x: x.mean(dim, keepdim))


def _flatten(
    node: Node, input: Any, start_dim: Any = 0, end_dim: Any = -1, module: nn.Module | None = None
) -> Operation | None:
    return (
        Operation(FLATTEN, node, input, module=module) if (start_dim, end_dim) == (1, -1) else None
    )


def _dense(node: Node, input: Any, weight: Any, bias: Any = None) -> Operation:
    return Operation(DENSE, node, input, (weight, bias))


MAX_POOLS = (F.max_pool2d, torch.max_pool2d)

_FUNCTIONS: dict[Any, Callable[..., Operation | None]] = {
    F.conv2d: _conv,
    F.batch_norm: _batch_norm,
    F.relu: _relu,
    F.relu_: _relu,
    torch.relu: _relu,
    torch.relu_: _relu,
    "relu": _relu,
    "relu_": _relu,
    F.relu6: _activation(RELU6),
    F.hardswish: _activation(HARDSWISH),
    **dict.fromkeys(MAX_POOLS, _pool),
    F.dropout: _dropout,
    operator.add: _add,
    operator.iadd: _add,
    torch.add: _add,
    "add": _add,
    "add_": _add,
    F.adaptive_avg_pool2d: _adaptive_average,
    torch.mean: _mean,
    "mean": _mean,
    torch.flatten: _flatten,
    "flatten": _flatten,
    F.linear: _dense,
    torch._C._nn.linear: _dense,
}


# --- memory ----------------------------------------------------------------------------------------

# What ``x += y`` and its like call.
IN_PLACE = (
    operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv,
    operator.imod, operator.ipow, operator.iand, operator.ior, operator.ixor, operator.ilshift,
    operator.irshift, operator.imatmul,
)  # fmt: skip

_FRESH = {
    F.conv2d, F.batch_norm, torch.relu, torch.add, operator.add, operator.sub, operator.mul,
    operator.truediv, torch.cat, torch.mul, F.max_pool2d, F.avg_pool2d, torch.sigmoid,
    F.interpolate, F.linear, torch._C._nn.linear,
}  # fmt: skip


def mutated(node: Node, modules: Mapping[str, nn.Module]) -> list[Node]:
    """The nodes whose tensors this one writes over, as far as its name and arguments tell."""
    if node.op == "call_module":
        if getattr(modules[str(node.target)], "inplace", False):
            return list(node.args[:1])  # type: ignore[arg-type]
        return [] if _pure(modules[str(node.target)]) else list(node.all_input_nodes)
    if node.op not in ("call_function", "call_method"):
        return []
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return list(node.all_input_nodes) if target._schema.is_mutable else []
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    plain = name[2:-2] if name.startswith("__") and name.endswith("__") else name
    in_place_operator = (getattr(operator, plain, None) is target or plain is not name) and (
        plain in ("setitem", "delitem") or (plain[:1] == "i" and plain not in _NOT_IN_PLACE)
    )
    by_name = name.endswith("_") and not name.endswith("__")
    place = inplace_place(target)
    in_place = node.kwargs.get("inplace") or (place is not None and True in node.args[place:][:1])
    if by_name or in_place_operator or in_place:
        first = node.args[0] if node.args else None
        return [first] if isinstance(first, Node) else list(node.all_input_nodes)
    return list(node.all_input_nodes) if "out" in node.kwargs else []


@lru_cache(maxsize=256)
def inplace_place(function: Any) -> int | None:
    """Where a function of torch takes its argument `inplace`.

    >>> inplace_place(F.silu), inplace_place(F.dropout), inplace_place(F.conv2d)
    (1, 3, None)
    """
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return None
    return names.index("inplace") if "inplace" in names else None


_NOT_IN_PLACE = (
    "is_",
    "is_not",
    "inv",
    "invert",
    "index",
    "indexOf",
    "init",
    "int",
    "itemgetter",
    "iter",
)


_SIZES = {"size", "dim", "numel", "ndimension"}
_ATTRIBUTES = {"shape", "dtype", "device", "ndim"}


def only_reads_sizes(node: Node) -> bool:
    """Whether the tensor's values and their order in memory are nothing to the node."""
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in _ATTRIBUTES
    return node.op == "call_method" and node.target in _SIZES


def leaves_modes(node: Node) -> bool:
    """Whether the node, of Dynamo, switches gradients or autocast for those behind it."""
    target = node.target
    return node.op == "call_function" and (
        target is torch._C._set_grad_enabled
        or getattr(target, "__name__", "").startswith(("_enter_", "_exit_"))
    )


def transforms(node: Node) -> bool:
    """Whether the node is one of ``torch.func``'s, around operations on tensors of another kind."""
    module = getattr(node.target, "__module__", None) or ""
    return node.op == "call_function" and "functorch" in module


def _pure(module: nn.Module) -> bool:
    return type(module).__module__.startswith(("torch.nn.", "pyconvopt.nn."))


def memory_of(node: Node, modules: Mapping[str, nn.Module]) -> set[Node]:
    """The nodes whose tensors this one's result may share memory with, itself among them."""
    found: set[Node] = set()
    waiting = [node]
    while waiting:
        each = waiting.pop()
        if each in found:
            continue
        found.add(each)
        fresh = (
            each.op in ("placeholder", "get_attr")
            or each.target in _FRESH
            or "joined" in each.meta
            or only_reads_sizes(each)
        )
        if each.op == "call_module":
            module = modules[str(each.target)]
            fresh = isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.MaxPool2d)
        if not fresh or mutated(each, modules):
            waiting.extend(each.all_input_nodes)
    return found
