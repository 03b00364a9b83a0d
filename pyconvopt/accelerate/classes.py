"""The classes of an accelerated model's modules.

A layer of torch gets the class of its name in `pyconvopt.nn`. A container gets a subclass of its
own class, made here, of the same name: all its methods, and a forward that runs a plan where there
is one. (A user's own layer is a container like any other; a subclass of Conv2d stays one.) Other
modules of torch and of this library keep their class.
"""

from __future__ import annotations

import functools
import itertools
import types
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from .. import nn as own
from .plan import Constants, FrozenModules, Plans

PLANS = "_pyconvopt_plans"

LAYERS = {
    getattr(nn, name): getattr(own, name)
    for name in (
        "AdaptiveAvgPool2d",
        "AvgPool2d",
        "BatchNorm2d",
        "Conv1d",
        "Conv2d",
        "ConvTranspose2d",
        "CrossEntropyLoss",
        "Dropout",
        "Dropout2d",
        "ELU",
        "GELU",
        "LazyBatchNorm2d",
        "LazyConv2d",
        "LazyLinear",
        "Linear",
        "MaxPool2d",
        "Mish",
        "ReLU",
        "SELU",
        "SiLU",
        "Softplus",
        "Tanh",
        "SyncBatchNorm",
    )
}
_PLAIN = {ours: theirs for theirs, ours in LAYERS.items()}


class Accelerated:
    """What the generated classes have in common; the class they stand for is `plain`."""

    plain: type
    frozen = False

    def __init_subclass__(cls, **options: Any) -> None:
        """Nothing: a subclass made here is not one that the user's class wants to hear of."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickled by the class it stands for; plans are left out and made again."""
        reduced: Any = super().__reduce_ex__(protocol)
        function, arguments, *state = reduced
        if state and isinstance(state[0], dict):
            state[0] = {name: value for name, value in state[0].items() if name != PLANS}
        if arguments and arguments[0] is type(self):
            made_by = (type(self).plain, self.frozen)
            return (_make, (function, made_by, arguments[1:]), *state)
        return (function, arguments, *state)

    def _replicate_for_data_parallel(self) -> Any:
        replica: Any = super()._replicate_for_data_parallel()  # type: ignore[misc]
        replica.__dict__.pop(PLANS, None)  # of steps with this module's weights
        return replica


class Frozen:
    """Refuses every change of a parameter, and lets plans know of any other."""

    def _refuse(self, change: str) -> NoReturn:
        raise RuntimeError(
            f"cannot {change}: the model was accelerated with frozen=True, its weights are constants; "
            "change the original model and accelerate it again"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        state = vars(self)
        held = name in state.get("_parameters", ()) or name in state.get("_buffers", ())
        if held or isinstance(value, nn.Parameter):
            self._refuse(f"set {name!r}")
        super().__setattr__(name, value)
        FrozenModules.note_change()

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        FrozenModules.note_change()

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Refused."""
        self._refuse(f"set {name!r}")

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Refused."""
        self._refuse("load a state_dict")

    def train(self, mode: bool = True) -> Any:
        """In evaluation mode it stays, also as a part of a model that is trained."""
        return super().train(False)  # type: ignore[misc]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        held = itertools.chain(self.parameters(), self.buffers())  # type: ignore[attr-defined]
        if not all(fn(tensor) is tensor for tensor in held):
            self._refuse("move or cast it")
        return self


def _noting(name: str) -> Callable[..., Any]:
    """torch's method of that name, of which plans are to know."""
    method = getattr(nn.Module, name)

    @functools.wraps(method)
    def noting(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = method(self, *args, **kwargs)
        FrozenModules.note_change()
        return result

    return noting


for _name in (
    "add_module",
    "register_backward_hook",
    "register_buffer",
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_full_backward_hook",
    "register_full_backward_pre_hook",
):
    setattr(Frozen, _name, _noting(_name))


def of_library(cls: type) -> bool:
    """Whether containers of that class join their layers themselves, or are one operation.

    So do those of torch and of this library, but for its architectures: they are like a user's.
    """
    architecture = cls.__module__.startswith("pyconvopt.models.architectures.")
    return cls.__module__.startswith(("torch.", "pyconvopt.")) and not architecture


def accelerated_class(plain: type, frozen: bool) -> type:
    """The class of a copy of a module of class `plain`."""
    if of_library(plain) and plain is not nn.Sequential:
        layer = LAYERS.get(plain, plain)
        return _generated(layer, False, True) if frozen else layer
    return _generated(plain, True, frozen)


def plain_class(module: nn.Module) -> type:
    """torch's or the user's class that an accelerated module stands for."""
    cls: Any = type(module)
    return _plain(cls)


@functools.lru_cache(maxsize=1024)
def _plain(cls: Any) -> type:
    if cls.__module__ == "torch.nn.utils.parametrize":  # made by it for one module
        (base,) = cls.__bases__
        plain = _plain(base)
        own = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}
        return cls if plain is base else type(cls.__name__, (plain,), own)
    if issubclass(cls, Accelerated):
        cls = cls.plain
    return _PLAIN.get(cls, cls)


def keep_constants(model: nn.Module) -> None:
    """Let the plans of a frozen model know its weights from now on, not from the first call on."""
    if isinstance(model, Accelerated) and "forward" in vars(type(model)):
        plans = model.__dict__[PLANS] = Plans(frozen=True)
        plans.constants = Constants(model)


def layer_class(module: nn.Module) -> type:
    """The module's class, or the one that a frozen layer was generated from."""
    return type(module).plain if isinstance(module, Accelerated) else type(module)


@functools.lru_cache(maxsize=1024)
def _generated(plain: type, planned: bool, frozen: bool) -> type:
    bases: tuple[type, ...] = (*((Frozen,) if frozen else ()), Accelerated, plain)
    body: dict[str, Any] = {
        "__module__": plain.__module__,
        "__qualname__": plain.__qualname__,
        "__doc__": plain.__doc__,
        "plain": plain,
        "frozen": frozen,
    }
    if planned:
        body["forward"] = _planned_forward(plain)
    return types.new_class(plain.__name__, bases, {}, lambda namespace: namespace.update(body))


def _planned_forward(plain: Any) -> Any:
    """`plain.forward`, run as its plan where there is one for the call."""

    @functools.wraps(plain.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if args and not kwargs and not torch.compiler.is_compiling():
            for argument in args:
                if type(argument) is not Tensor:
                    break
            else:
                plans = self.__dict__.get(PLANS)
                if plans is None:
                    plans = self.__dict__[PLANS] = Plans(self.frozen)
                plan = plans.find(self, len(args))
                if plan is not None:
                    return plan.run(self, *args)
        return plain.forward(self, *args, **kwargs)

    return forward


def _make(function: Any, made_by: tuple[type, bool], arguments: tuple[Any, ...]) -> Any:
    """What `Accelerated.__reduce_ex__` has pickled, without its state."""
    return function(accelerated_class(*made_by), *arguments)
