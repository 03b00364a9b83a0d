"""A container's plans: its forward as a list of joined steps, and the question whether one still holds.

A plan is made for a situation (number of inputs, gradients wanted or not, `explain` listening) and
for a state of the modules it was traced through: their attributes, children, mode and hooks. That
state is compared at each call, some 0.3 µs a module, in frozen models only after a change
(`FrozenModules`); weights, statistics and the settings of layers are read anew by the steps
themselves. Another state gets another plan, and the last ones are kept, so going back and forth
between training and evaluation traces nothing twice.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter, itemgetter
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
_SWITCHES = ("training", *_HOOKS)
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
    """The module's attributes as they are now: containers by content, weights by their holder."""
    return {
        name: value.copy() if isinstance(value, dict | list | set) and name not in _LIVE else value
        for name, value in module.__dict__.items()
    }


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
        self.inlined = [(m, m.__dict__, attributes(m)) for m in with_lists(inlined)]
        self.frozen = frozen
        self.seen: object = None
        self.contents = [
            (value, before[name])
            for _, state, before in self.inlined
            for name, value in state.items()
            if isinstance(value, dict | list | set) and name not in _TORCHS
        ]

    def holds(self) -> bool:
        """Whether the modules are as they were."""
        state = FrozenModules.state
        if self.frozen and state is self.seen:
            # What is changed from outside its module.
            moved = any(changed(now, then) for now, then in self.contents)
            return all(map(hooked, self.watched)) and not moved
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
        if not all(map(hooked, self.watched)):
            return False
        return not any(changed(state, before) for _, state, before in self.inlined)

    def moved(self) -> list[nn.Module]:
        """The modules with an attribute of another value, mode and hooks aside."""
        return [
            module
            for module, state, before in self.inlined
            if changed(
                {k: v for k, v in state.items() if k not in _SWITCHES},
                {k: v for k, v in before.items() if k not in _SWITCHES},
            )
        ]


def compiled(graph: Graph) -> Callable[..., Any]:
    """The graph as a Python function of its root module and its inputs."""
    code = graph.python_code("self")
    scope = dict(code.globals)
    exec(compile(code.src, "<plan of pyconvopt.accelerate>", "exec"), scope)
    return scope["forward"]


class Plans:
    """The plans of one container. Copies and pickles of it are empty: plans are made again."""

    def __init__(self, frozen: bool = False) -> None:
        self.frozen = frozen
        self.plans: dict[Any, list[Plan]] = {}
        self.current: tuple[Any, Plan] | None = None
        self.as_written: set[nn.Module] = set()
        self.moves: Counter[nn.Module] = Counter()
        self.constants: list[Tensor] | None = None
        self.versions: list[int] = []

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
        situation = (inputs, torch.is_grad_enabled(), listening)
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
            held = itertools.chain(module.parameters(), module.buffers())
            self.constants = [t for t in held if not t.is_inference()]  # those have no versions
            self.versions = list(map(_version, self.constants))
        if list(map(_version, self.constants)) != self.versions:
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
