"""A container's forward as a torch.fx graph, part by part.

Tracing runs the forward on symbols. What would come out wrong is refused, and the innermost module
in which it happens becomes a leaf of the graph that runs as written:

- control flow that depends on data (torch.fx's own error), or on the type of a value;
- a forward that changes attributes of its module or draws random numbers outside of tensors;
- operations on tensors made on the way (``torch.rand(1)``), whose result would be frozen;
- gradients or autocast switched inside, checkpointing, and autograd functions of the user's own:
  a graph holds none of that.
"""

from __future__ import annotations

import random
import sys
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.fx import Graph, Node, Proxy, Tracer
from torch.utils._python_dispatch import TorchDispatchMode

from ..hooks import has_hooks
from .classes import of_library
from .plan import attributes, changed

# Frames of these files between an operation and the forward: a context that no graph node keeps.
_CONTEXTS = {torch.utils.checkpoint.__file__, sys.modules["torch.autograd.function"].__file__}


# torch.fx patches nn.Module while it traces; other threads meanwhile call through to what it was.
_one_at_a_time = threading.RLock()


class Untraceable(Exception):
    """The forward does something that a graph would get wrong."""


class Value(Proxy):
    """A symbol that does not say what type it stands for: torch.fx's would say it is no tensor."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # type: ignore[override]
        raise Untraceable(f"the type of {self.node} is asked for before it is known")


class _NoOperations(TorchDispatchMode):
    """While a forward is traced no operation may run: its result would be frozen into the graph."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise Untraceable(f"{func} runs on tensors that are no inputs")


def _modes() -> tuple[Any, ...]:
    """The switches that must stand, at every operation, as at the call."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
    )


class _Watch:
    """Notices, and takes back, what a forward does beside returning a value."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.before = attributes(module)
        self.values = dict(module.__dict__)
        self.random = random.getstate(), np.random.get_state(legacy=False)

    def changed(self) -> bool:
        return (
            changed(self.module.__dict__, self.before)
            or random.getstate() != self.random[0]
            or str(np.random.get_state(legacy=False)) != str(self.random[1])
        )

    def take_back(self) -> None:
        for name, value in self.values.items():
            content = self.before[name]
            if content is not value:
                value.clear()
                value.extend(content) if isinstance(value, list) else value.update(content)
        self.module.__dict__.clear()
        self.module.__dict__.update(self.values)
        random.setstate(self.random[0])
        np.random.set_state(self.random[1])


class _Tracer(Tracer):
    proxy_buffer_attributes = True

    def __init__(self, inputs: int, as_written: set[nn.Module]) -> None:
        super().__init__()
        self.inputs = inputs
        self.as_written = as_written
        self.inlined: list[nn.Module] = []
        self.thread = threading.get_ident()
        self.modes = _modes()

    def proxy(self, node: Node) -> Proxy:
        return Value(node, self)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        symbols = [
            self.create_proxy("placeholder", f"input_{i}", (), {}) for i in range(self.inputs)
        ]
        return root_fn, [self.root, *symbols]

    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> Node:
        if _modes() != self.modes:
            raise Untraceable("gradients or autocast are switched inside the forward")
        frame = sys._getframe(1)
        while frame is not None and frame.f_code is not Tracer.trace.__code__:
            if frame.f_code.co_filename in _CONTEXTS:
                raise Untraceable("a checkpoint or an autograd function of its own")
            frame = frame.f_back  # type: ignore[assignment]
        return super().create_node(kind, *args, **kwargs)

    def create_arg(self, a: Any) -> Any:
        if type(a) is Value or isinstance(a, Proxy):
            return a.node
        if isinstance(a, Tensor) and not isinstance(a, nn.Parameter):
            held = any(a is b for b in self.root.buffers()) or a in self.tensor_attrs
            if not held:
                raise Untraceable("a tensor that belongs to no module")
        return super().create_arg(a)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        if threading.get_ident() != self.thread:
            return attr_val
        # No cache: a node of a part that turns out to be untraceable is erased again.
        return super().getattr(attr, attr_val, {})

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        if not self.is_leaf_module(m, path):
            last = next(iter(reversed(self.graph.nodes)), None)
            inlined = len(self.inlined)
            watch = _Watch(m)
            try:
                result = forward(*args, **kwargs)
                if not watch.changed():
                    self.inlined.append(m)
                    return result
            except Exception:
                pass
            watch.take_back()
            del self.inlined[inlined:]
            for node in reversed(self.graph.nodes):
                if node is last:
                    break
                self.graph.erase_node(node)
            self.as_written.add(m)
        return self.create_proxy("call_module", path, args, kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            m in self.as_written
            or has_hooks(m)
            or (of_library(type(m)) and not isinstance(m, nn.Sequential))
        )


@dataclass
class Traced:
    """A graph, and the containers whose forward it holds."""

    graph: Graph
    inlined: list[nn.Module] = field(default_factory=list)


def trace(root: nn.Module, inputs: int, as_written: set[nn.Module]) -> Traced:
    """The forward of `root` on so many tensors; parts that are refused are added to `as_written`.

    Errors: whatever the forward raises on symbols, if `root` itself is refused.
    """
    with _one_at_a_time:
        tracer = _Tracer(inputs, as_written)
        watch = _Watch(root)
        try:
            with _NoOperations():
                graph = tracer.trace(root)
            if watch.changed():
                raise Untraceable("the forward changes its module or draws random numbers")
        except Exception:
            watch.take_back()
            raise
    return Traced(graph, [root, *tracer.inlined])
