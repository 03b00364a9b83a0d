"""`accelerate`: any torch model on this library's kernels; `restore`: the plain torch model again.

The module tree is copied with other classes, around the very same parameters, buffers and hooks
(`copying`). A layer becomes the module of its name in `pyconvopt.nn`; a container becomes a
subclass of its own class (`classes`) whose forward runs a plan: the container's forward traced by
torch.fx (`tracing`), with neighbouring operations joined (`operations`, `fusion`, `folding`) and
everything between the door and the exit in channels_last (`layout`). A plan is made at the first
call and made again when something that it rests on has changed (`plan`).

The package itself can be called, so that ``pyconvopt.accelerate`` is both the place and the function.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from torch import nn

from ..explanation import state_kept
from .classes import accelerated_class, keep_constants, plain_class
from .copying import copy_tree, require_model
from .plan import is_lazy

__all__ = ["accelerate", "restore"]


def accelerate(model: nn.Module, *, example_input: Any = None, frozen: bool = False) -> nn.Module:
    """The same model on this library's kernels, neighbouring operations joined where it can be seen.

    The result shares the model's parameters, buffers and hooks (an optimiser made before goes on
    working), has its names, ``state_dict`` keys, classes (``isinstance``) and printed form, and can
    be copied, pickled, compiled and wrapped like it. The model given stays as it is.

    Joined in one pass: convolution, ReLU and 2×2 max-pooling; batch norm, residual, ReLU, 2×2
    max-pooling and dropout; in training a batch norm (and activation) and the convolution or other max-pool
    that alone reads its result, which is never stored; in evaluation without gradients batch norm goes into
    the convolution's weights, anew whenever a weight or statistic has another value. Modules with hooks run
    alone, and a forward that torch.fx cannot trace (control flow that depends on data) runs as written, its
    parts joined each for itself. So does a ``GraphModule``, which is generated code.

    Args:
        model: any torch model; accelerate before wrapping in ``DistributedDataParallel`` or
            ``torch.compile``.
        example_input: a tensor, or a tuple of the model's arguments: the plans for them in the
            model's present mode are made at once instead of at the first call. Buffers and random
            state stay.
        frozen: for inference: evaluation mode, also as a part of a model that is trained; weights
            taken as constants and folded once. Setting a parameter afterwards is a RuntimeError; so
            is, at the next call, a change in place (through ``.data`` it cannot be seen).

    Raises:
        TypeError: for something that is no module, or one of TorchScript.
        ValueError: for a model that is already compiled or wrapped, or is to be frozen while it has
            lazy layers that were never called.

    >>> import torch, pyconvopt as pco
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    >>> fast = pco.accelerate(model)
    >>> fast[0].weight is model[0].weight, isinstance(fast[0], pco.nn.Conv2d)
    (True, True)
    >>> x = torch.randn(1, 3, 8, 8)
    >>> torch.allclose(fast(x), model(x), atol=1e-5)
    True
    """
    require_model(model)
    if frozen and is_lazy(model):
        raise ValueError("model has lazy layers without weights to freeze: call it once before")
    fast = copy_tree(model, lambda module: accelerated_class(plain_class(module), frozen))
    if frozen:
        nn.Module.train(fast, False)
        keep_constants(fast)
    if example_input is not None:
        arguments = example_input if isinstance(example_input, tuple) else (example_input,)
        with state_kept(fast):
            fast(*arguments)
    return fast


def restore(model: nn.Module) -> nn.Module:
    """Plain torch again: the model with torch's own modules around the same parameters and buffers.

    >>> import torch, pyconvopt as pco
    >>> fast = pco.accelerate(torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3)))
    >>> type(pco.restore(fast)[0]) is torch.nn.Conv2d
    True
    """
    require_model(model)
    return copy_tree(model, plain_class)


class _CallableModule(ModuleType):
    """Lets the package be called: see `accelerate`."""

    def __call__(
        self, model: nn.Module, *, example_input: Any = None, frozen: bool = False
    ) -> nn.Module:
        return accelerate(model, example_input=example_input, frozen=frozen)


_CallableModule.__call__.__doc__ = accelerate.__doc__
sys.modules[__name__].__class__ = _CallableModule
