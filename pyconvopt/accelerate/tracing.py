"""A container's forward as a torch.fx graph, part by part.

Tracing runs the forward on symbols. What would come out wrong is refused, and the innermost module
in which it happens becomes a leaf of the graph that runs as written:

- control flow that depends on data (torch.fx's own error), or on the type of a value;
- a forward that changes attributes of its module, or plain objects that these hold, leaves tensors
  elsewhere, or seeds or draws random numbers outside of tensors;
- operations on tensors made on the way (``torch.rand(1)``), whose result would be frozen;
- gradients or autocast switched inside, checkpointing, and autograd functions of the user's own:
  a graph holds none of that.

A forward may catch a refusal, or ask what a symbol answers about itself (``x.dtype is torch.float32``).
So what was refused, and attributes that were looked at and not used, are kept count of.
"""

from __future__ import annotations

import gc
import itertools
import random
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.fx import Graph, Node, Proxy, Tracer
from torch.fx.proxy import Attribute
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from ..hooks import has_hooks
from .classes import of_library
from .operations import IN_PLACE
from .plan import attributes, changed, held, thread_modes

# Frames of these files between an operation and the forward: a context that no graph node keeps.
_CONTEXTS = {torch.utils.checkpoint.__file__, sys.modules["torch.autograd.function"].__file__}


# torch.fx patches nn.Module while it traces; other threads meanwhile call through to what it was.
_one_at_a_time = threading.RLock()


class Untraceable(Exception):
    """The forward does something that a graph would get wrong."""


_OF_SYMBOLS = {"node", "tracer", "root", "attr", "_node", "number"}


class Symbol:
    """What a symbol does not answer, because torch.fx's answer would be one about the symbol."""

    node: Node
    tracer: Any

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # type: ignore[override]
        raise self.tracer.refusal(f"the type of {self.node} is asked for before it is known")

    def __hash__(self) -> int:
        raise self.tracer.refusal(f"{self.node} is looked for by value before it is known")

    def __repr__(self) -> str:
        raise self.tracer.refusal(f"{self.node} is written out before it is known")

    def __format__(self, spec: str) -> str:
        raise self.tracer.refusal(f"{self.node} is written out before it is known")

    def __float__(self) -> float:
        raise self.tracer.refusal(f"{self.node} is asked for its value before it is known")

    def __int__(self) -> int:
        raise self.tracer.refusal(f"{self.node} is asked for its value before it is known")

    def __len__(self) -> int:
        raise self.tracer.refusal(f"{self.node} is asked for its length before it is known")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _OF_SYMBOLS:
            raise self.tracer.refusal(f"the attribute {name!r} of {self.node} is set")
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Member:
        if not hasattr(Tensor, name):
            raise self.tracer.refusal(
                f"{self.node} is asked for {name!r}, which tensors do not have"
            )
        return Member(self, name)  # type: ignore[arg-type]


def _writing(function: Any) -> Any:
    """The method of symbols for ``x += y`` and its like, which torch.fx would take for ``x = x + y``."""

    def write(self: Any, other: Any) -> Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return write


for _function in IN_PLACE:
    setattr(Symbol, f"__{_function.__name__}__", _writing(_function))


class Value(Symbol, Proxy):
    """A symbol that does not say what type it stands for: torch.fx's would say it is no tensor."""


class Member(Symbol, Attribute):
    """An attribute or method of a symbol."""

    def __init__(self, root: Proxy, name: str) -> None:
        super().__init__(root, name)
        self.number = self.tracer.note(f"the attribute {name!r} is asked for and not used")

    @property
    def node(self) -> Node:  # type: ignore[override]
        """The node of its value."""
        self.tracer.unanswered.pop(self.number, None)
        return super().node

    def __call__(self, *args: Any, **kwargs: Any) -> Proxy:
        """The method's result."""
        self.tracer.unanswered.pop(self.number, None)
        return super().__call__(*args, **kwargs)


class _NoOperations(TorchDispatchMode):
    """While a forward is traced no operation may run: its result would be frozen into the graph."""

    def __init__(self, tracer: _Tracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise self.tracer.refusal(f"{func} runs on tensors that are no inputs")


def _modes() -> tuple[Any, ...]:
    """The switches that must stand, at every operation, as at the call, and the seed."""
    return (*thread_modes(), torch.initial_seed())


_SOURCES = (random.Random, np.random.Generator, np.random.RandomState)


def _state(source: Any) -> Any:
    """Where a source of random numbers stands."""
    if source is torch:
        with _disable_current_modes():  # which may be one of tensors without values
            return bytes(torch.get_rng_state().numpy())
    if isinstance(source, np.random.Generator):
        return source.bit_generator.state
    numpys = source is np.random or isinstance(source, np.random.RandomState)
    return source.get_state(legacy=False) if numpys else source.getstate()


def _set_state(source: Any, state: Any) -> None:
    if source is torch:
        with _disable_current_modes():
            torch.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    elif isinstance(source, np.random.Generator):
        source.bit_generator.state = state
    else:
        (source.set_state if hasattr(source, "set_state") else source.setstate)(state)


class _Watch:
    """Notices, and takes back, what a forward does beside returning a value."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.values = dict(module.__dict__)
        before = attributes(module)
        self.contents = [
            (value, before[name])
            for name, value in self.values.items()
            if value is not before[name]
        ]
        self.contents += held([module]).values()
        self.sources: list[Any] = [
            value
            for holder, _ in [(self.values, None), *self.contents]
            for value in (holder.values() if isinstance(holder, dict) else holder)
            if isinstance(value, _SOURCES)
        ]
        self.sources += [random, np.random, torch]
        self.states = list(map(_state, self.sources))

    def changed(self) -> bool:
        return (
            changed(self.module.__dict__, self.values)
            or any(changed(now, then) for now, then in self.contents)
            or str(list(map(_state, self.sources))) != str(self.states)
        )

    def take_back(self) -> None:
        for container, content in self.contents:
            if changed(container, content):
                container.clear()
                add = container.extend if hasattr(container, "extend") else container.update
                add(content)
        state = self.module.__dict__  # never empty: other threads may be at work with it
        for name in [*state]:
            if name not in self.values:
                del state[name]
        state.update(self.values)
        for source, drawn in zip(self.sources, self.states, strict=True):
            _set_state(source, drawn)


class _Tracer(Tracer):
    proxy_buffer_attributes = True

    def __init__(self, inputs: int, as_written: set[nn.Module]) -> None:
        super().__init__()
        self.inputs = inputs
        self.as_written = as_written
        self.inlined: list[nn.Module] = []
        self.thread = threading.get_ident()
        self.modes = _modes()
        self.symbols: list[weakref.ref[Value]] = []
        self.numbers = itertools.count()
        self.unanswered: dict[int, str] = {}

    def note(self, question: str) -> int:
        """Its number among what is unanswered until it is taken out."""
        number = next(self.numbers)
        self.unanswered[number] = question
        return number

    def refusal(self, why: str) -> Untraceable:
        """The error to raise, which counts even if the forward catches it."""
        self.note(why)
        return Untraceable(why)

    def to_bool(self, obj: Proxy) -> bool:
        raise self.refusal("control flow depends on data")

    def iter(self, obj: Proxy) -> Iterator[Any]:
        raise self.refusal("a tensor is gone through element by element")

    def proxy(self, node: Node) -> Proxy:
        value = Value(node, self)
        self.symbols.append(weakref.ref(value))
        return value

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        symbols = [
            self.create_proxy("placeholder", f"input_{i}", (), {}) for i in range(self.inputs)
        ]
        return root_fn, [self.root, *symbols]

    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> Node:
        if _modes() != self.modes:
            raise self.refusal("gradients or autocast are switched inside the forward")
        frame = sys._getframe(1)
        while frame is not None and frame.f_code is not Tracer.trace.__code__:
            if frame.f_code.co_filename in _CONTEXTS:
                raise self.refusal("a checkpoint or an autograd function of its own")
            frame = frame.f_back  # type: ignore[assignment]
        return super().create_node(kind, *args, **kwargs)

    def create_arg(self, a: Any) -> Any:
        if type(a) in (Value, Member) or isinstance(a, Proxy):
            return a.node
        if type(a) is OrderedDict:
            return self.create_proxy("call_function", OrderedDict, ([*a.items()],), {}).node
        if isinstance(a, dict) and type(a) is not dict:
            raise self.refusal(f"a {type(a).__name__}, which would become a dict")
        if isinstance(a, Tensor) and not isinstance(a, nn.Parameter):
            held = any(a is b for b in self.root.buffers()) or a in self.tensor_attrs
            if not held:
                raise self.refusal("a tensor that belongs to no module")
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
            answered = self.unanswered.copy()
            watch = _Watch(m)
            try:
                result = forward(*args, **kwargs)
                if not watch.changed() and self.unanswered.keys() <= answered.keys():
                    self.inlined.append(m)
                    return result
            except Exception:
                pass
            watch.take_back()
            self.unanswered = answered
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
            or has_iterator(m)
            or (of_library(type(m)) and not isinstance(m, nn.Sequential))
        )


@dataclass
class Traced:
    """A graph, and the containers whose forward it holds."""

    graph: Graph
    inlined: list[nn.Module] = field(default_factory=list)


def has_iterator(module: nn.Module) -> bool:
    """Whether an attribute is one: it would not give again what it gave while the forward is traced."""
    return any(isinstance(value, Iterator) for value in dict(vars(module)).values())


def take_away(symbols: list[weakref.ref[Value]]) -> None:
    """See to it that no symbol has stayed with the user, in a list of which no module knows.

    Errors: Untraceable where one has; it is taken out of lists.
    """
    if all(symbol() is None for symbol in symbols):
        return
    gc.collect()  # of frames and exceptions
    kept = [value for symbol in symbols if (value := symbol()) is not None]
    for value in kept:
        for holder in gc.get_referrers(value):
            if type(holder) is list and holder is not kept:
                holder[:] = [each for each in holder if each is not value]
    if kept:
        raise Untraceable("the forward leaves tensors elsewhere than in its result")


def trace(root: nn.Module, inputs: int, as_written: set[nn.Module]) -> Traced:
    """The forward of `root` on so many tensors; parts that are refused are added to `as_written`.

    Errors: whatever the forward raises on symbols, if `root` itself is refused.
    """
    with _one_at_a_time:
        tracer = _Tracer(inputs, as_written)
        watch = _Watch(root)
        if has_iterator(root):
            raise Untraceable("the forward may draw on an iterator")
        try:
            with _NoOperations(tracer):
                graph = tracer.trace(root)
            for why in tracer.unanswered.values():
                raise Untraceable(why)
            if watch.changed():
                raise Untraceable("the forward changes its module or draws random numbers")
            take_away(tracer.symbols)
        except Exception:
            watch.take_back()
            raise
    return Traced(graph, [root, *tracer.inlined])
