"""A container's plans: its forward as a list of joined steps, and the question whether one still holds.

A plan is made for a situation (number of inputs, gradients wanted or not, autocast, `explain`
listening) and for a state of the modules it was traced through: their attributes and the plain
objects that these hold, children, mode and hooks. That state is compared at each call, some 0.3 µs a
module, in frozen models only after a change (`FrozenModules`); weights, statistics and the settings
of layers are read anew by the steps themselves. Another state gets another plan, and the last ones
are kept, so going back and forth between training and evaluation traces nothing twice. What a
forward reads elsewhere (globals, attributes of its class, the environment) stays as it was traced.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from operator import attrgetter, contains, itemgetter
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph
from torch.nn import parameter
from torch.nn.modules import module as torch_module

from .. import explanation
from ..hooks import has_hooks, hooked

log = logging.getLogger("pyconvopt.accelerate")

KEPT = 8
"""Plans of one container that are kept."""
UNSTABLE = 4
"""So often may an attribute of a container have another value before its forward is left as it is."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# Read by the steps at each call: a new value asks for no new plan.
_LIVE = ("_parameters", "_buffers")
# torch's own dictionaries, which its methods write to; but for the children, which containers move about.
_TORCHS = set(vars(nn.Module())) - {"_modules"}
_COPIED = {name for name, value in vars(nn.Module()).items() if isinstance(value, dict | set)}
_COPIED -= {"_modules", *_LIVE}
_SWITCHES = ("training", *_HOOKS)
CONTAINERS = (dict, list, set, deque)
# Objects that stand for no state of their own, or for one that no forward is about.
_NO_STATE = (
    type, ModuleType, FunctionType, MethodType, BuiltinFunctionType, partial, nn.Module, Tensor,
    torch.Generator, logging.Logger,
)  # fmt: skip
DEPTH = 3
"""So many objects deep the attributes of a module are looked into."""
MOST = 1000
"""So many things are looked at there."""
# What decides how layers of a kind are joined, and is not read anew by the steps.
_DECISIVE: dict[type, tuple[str, ...]] = {
    nn.Conv2d: ("padding_mode",),
    nn.MaxPool2d: ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    nn.AdaptiveAvgPool2d: ("output_size",),
    nn.Flatten: ("start_dim", "end_dim"),
}
_CONSTANT: dict[type, tuple[str, ...]] = {
    **_DECISIVE,
    nn.Conv2d: ("padding_mode", "stride", "padding", "dilation", "groups"),
    nn.BatchNorm2d: ("eps",),
}
"""The same of frozen models."""
_mode, _hooks = itemgetter("training"), itemgetter(*_HOOKS)
_version = attrgetter("_version")


class FrozenModules:
    """What says that no module of any frozen model was changed: as long as `state` is the same object.

    Of a hundred layers each has its dictionaries somewhere in memory, and to look into them takes a
    tenth of a small model's time once the weights have driven them out of the caches.
    """

    state = object()

    @classmethod
    def note_change(cls) -> None:
        """Have all plans look at their modules again."""
        cls.state = object()


def thread_modes() -> tuple[Any, ...]:
    """The switches of this thread that a forward may ask for, and that must stand while it is traced."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
    )


def watched_globally() -> bool:
    """Whether there are hooks on all modules of the process."""
    return bool(
        torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
    )


def is_lazy(module: nn.Module) -> bool:
    """Whether there are weights or statistics that get their shapes at the first call."""
    held = itertools.chain(module.parameters(), module.buffers())
    return any(map(parameter.is_lazy, held))


def with_lists(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """The modules, and the lists and dictionaries of modules in them, whose forward is never called."""
    for module in modules:
        yield module
        yield from with_lists(
            child for child in module.children() if isinstance(child, nn.ModuleList | nn.ModuleDict)
        )


def attributes(module: nn.Module) -> dict[str, Any]:
    """The module's attributes as they are now: torch's dictionaries by content, `held` sees to the others."""
    return {
        name: value.copy() if name in _COPIED else value
        for name, value in dict(module.__dict__).items()  # in one go: other threads may add to it
    }


def within(value: Any, depth: int = DEPTH) -> Iterator[Any]:
    """The containers in a value, itself included, and the attributes of plain objects in it."""
    if isinstance(value, tuple):
        inner: Iterable[Any] = value
    elif isinstance(value, CONTAINERS):
        yield value
        inner = value.values() if isinstance(value, dict) else value
    elif is_plain(value):
        yield vars(value)
        inner = vars(value).values()
    else:
        return
    if depth:
        for each in itertools.islice(list(inner), MOST):
            yield from within(each, depth - 1)


def is_plain(value: Any) -> bool:
    """Whether it is an object of a Python class whose attributes are its state."""
    return hasattr(value, "__dict__") and not isinstance(value, (*_NO_STATE, Plans))


def held(modules: Iterable[nn.Module]) -> dict[int, tuple[Any, Any]]:
    """The containers and plain objects that modules' attributes hold, each once, with their contents."""
    found: dict[int, tuple[Any, Any]] = {}
    for module in modules:
        values = [v for name, v in dict(module.__dict__).items() if name not in _TORCHS]
        nested = itertools.chain.from_iterable(map(within, values))
        outer = (each for each in values if isinstance(each, CONTAINERS))  # these in any case
        for each in itertools.chain(outer, itertools.islice(nested, MOST)):
            found.setdefault(id(each), (each, each.copy()))
    return found


def changed(state: Any, before: Any) -> bool:
    """Whether attributes, or the contents of one, differ from those before."""
    try:
        return state != before
    except Exception:  # values that cannot be compared with ==, such as another array
        return True


class Plan:
    """A traced forward, its joined steps as one Python function, and what it was traced through."""

    def __init__(
        self, graph: Graph, layers: Iterable[nn.Module], inlined: Iterable[nn.Module], frozen: bool
    ):
        self.run = compiled(graph)
        layers = list(layers)
        self.training = [m.training for m in layers]
        self.layers = [m.__dict__ for m in layers]
        self.watched, self.unwatched = (
            [m.__dict__ for m in layers if has_hooks(m) is watched] for watched in (True, False)
        )
        self.settings = [
            (get, found, list(map(get, found)))
            for kind, names in (_CONSTANT if frozen else _DECISIVE).items()
            if (found := [m.__dict__ for m in layers if isinstance(m, kind)])
            for get in [itemgetter(*names)]
        ]
        self.inlined = [(m, m.__dict__, attributes(m)) for m in with_lists(inlined)]
        self.frozen = frozen
        self.seen: object = None
        self.contents = held(module for module, _, _ in self.inlined)

    def holds(self) -> bool:
        """Whether the modules are as they were."""
        state = FrozenModules.state
        # What is changed from outside its module.
        if any(changed(now, then) for now, then in self.contents.values()):
            return False
        if self.frozen and state is self.seen:
            return all(map(hooked, self.watched))
        if not self.same():
            return False
        self.seen = state
        return True

    def same(self) -> bool:
        """The same, by looking at each of them."""
        # Of a hundred layers and more at each call: nothing but C runs for each of them.
        if list(map(_mode, self.layers)) != self.training:
            return False
        if any(itertools.chain.from_iterable(map(_hooks, self.unwatched))):
            return False
        if any(map(contains, self.unwatched, itertools.repeat("forward"))):
            return False
        if not all(map(hooked, self.watched)):
            return False
        if any(list(map(get, layers)) != before for get, layers, before in self.settings):
            return False
        return not any(changed(state, before) for _, state, before in self.inlined)

    def moved(self) -> list[nn.Module]:
        """The modules with an attribute of another value or content, mode and hooks aside."""
        others = {key for key, (now, then) in self.contents.items() if changed(now, then)}
        return [
            module
            for module, state, before in self.inlined
            if changed(
                {k: v for k, v in state.items() if k not in _SWITCHES},
                {k: v for k, v in before.items() if k not in _SWITCHES},
            )
            or not others.isdisjoint(held([module]))
        ]


def compiled(graph: Graph) -> Callable[..., Any]:
    """The graph as a Python function of its root module and its inputs."""
    code = graph.python_code("self")
    scope = dict(code.globals)
    exec(compile(code.src, "<plan of pyconvopt.accelerate>", "exec"), scope)
    return scope["forward"]


class Constants:
    """The weights and statistics of a frozen model: which tensors they are, and of which version."""

    def __init__(self, module: nn.Module) -> None:
        held = itertools.chain(module.parameters(), module.buffers())
        self.tensors = [t for t in held if not t.is_inference()]  # those have no versions
        self.versions = list(map(_version, self.tensors))
        dictionaries = [d for m in module.modules() for d in (m._parameters, m._buffers)]
        self.holders = [d for d in dictionaries if isinstance(d, dict) and d]
        self.held = [d.copy() for d in self.holders]

    def unchanged(self) -> bool:
        """Whether they are as they were when this was made."""
        # At each call, for hundreds of tensors: nothing but C runs for each of them.
        same = not changed(self.holders, self.held)
        return same and list(map(_version, self.tensors)) == self.versions


class Plans:
    """The plans of one container. Copies and pickles of it are empty: plans are made again."""

    def __init__(self, frozen: bool = False) -> None:
        self.frozen = frozen
        self.plans: dict[Any, list[Plan]] = {}
        self.current: tuple[Any, Plan] | None = None
        self.as_written: set[nn.Module] = set()
        self.moves: Counter[nn.Module] = Counter()
        self.constants: Constants | None = None

    def __deepcopy__(self, memo: Any) -> Plans:
        return Plans(self.frozen)

    def __reduce__(self) -> Any:
        return Plans, (self.frozen,)

    def find(self, module: nn.Module, inputs: int) -> Plan | None:
        """The plan for a call with so many tensors; None where the forward runs as written."""
        if self.frozen:
            self._require_unchanged(module)
        if module in self.as_written or torch.jit.is_tracing():
            return None
        listening = explanation.listening()
        if watched_globally() and not listening:
            return None
        situation = (inputs, listening, *thread_modes())
        if self.current is not None:
            made_for, plan = self.current
            if made_for == situation and plan.holds():
                return plan
        known = self.plans.setdefault(situation, [])
        for plan in known:
            if plan.holds():
                break
        else:
            if known:
                self._count(known[-1].moved())
            made = self._make(module, inputs, listening)
            if made is None:
                return None
            plan = made
            known.append(plan)
            del known[:-KEPT]
        self.current = situation, plan
        return plan

    def _require_unchanged(self, module: nn.Module) -> None:
        if self.constants is None:
            self.constants = Constants(module)
        if not self.constants.unchanged():
            raise RuntimeError(
                "a weight or statistic was changed after accelerate(frozen=True), which takes them as "
                "constants: accelerate the changed model again"
            )

    def _count(self, modules: list[nn.Module]) -> None:
        for module in modules:
            self.moves[module] += 1
            if self.moves[module] >= UNSTABLE:
                self.as_written.add(module)

    def _make(self, module: nn.Module, inputs: int, listening: bool) -> Plan | None:
        from .fusion import fuse
        from .tracing import trace

        if module in self.as_written or is_lazy(module):
            return None
        try:
            traced = trace(module, inputs, self.as_written)
        except Exception as error:  # whatever a forward may raise on symbols instead of tensors
            log.debug("%s runs as written: %s", type(module).__name__, error)
            self.as_written.add(module)
            return None
        layers = fuse(traced.graph, dict(module.named_modules()), self.frozen, listening)
        return Plan(traced.graph, layers, traced.inlined, self.frozen)
