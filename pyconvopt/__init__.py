"""pyconvopt: convolutional networks, faster to train on the machine you have.

Kernels of its own behind torch's modules (`pyconvopt.nn`, `pyconvopt.functional`), model assembly
in Keras' manner (`pyconvopt.layers`, `pyconvopt.models`), and a thin training loop
(`pyconvopt.training`). Parts are imported when first used; importing the package needs torch and
numpy alone.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

import torch

from . import _C, ops, settings

__version__ = "0.1.0"

_MODULES = (
    "accelerate",
    "activations",
    "averaging",
    "callbacks",
    "constraints",
    "data",
    "diagnostics",
    "functional",
    "initializers",
    "layers",
    "losses",
    "metrics",
    "models",
    "nn",
    "ops",
    "optimizers",
    "pictures",
    "regularizers",
    "schedules",
    "training",
    "trials",
)
_NAMES = {"explain": "explanation", "restore": "accelerate"}

if TYPE_CHECKING:
    from . import (
        accelerate,
        data,
        functional,
        layers,
        models,
        nn,
        ops,
        optimizers,
        pictures,
        training,
        trials,
    )
    from .accelerate import restore
    from .explanation import explain

__all__ = ["__version__", "settings", *_MODULES, *_NAMES]

# The activations of every step in the memory of the step before, not in freshly mapped pages.
if os.environ.get("PYCONVOPT_KEEP_MEMORY", "1") != "0":
    _C.keep_freed_memory(True)


# backend="pyconvopt" of torch.compile: see there.
if "torch._dynamo" in sys.modules:
    from .accelerate.backend import register

    register()


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
