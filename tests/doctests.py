"""The examples in docstrings, run for every module of a package."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from types import ModuleType


def modules(package: ModuleType) -> list[ModuleType]:
    """A package and the modules right below it; a module alone."""
    below = pkgutil.iter_modules(getattr(package, "__path__", []), package.__name__ + ".")
    return [package, *(importlib.import_module(found.name) for found in below)]


def assert_examples_hold(package: ModuleType) -> None:
    """Run the examples; at least one must be there."""
    results = [doctest.testmod(module) for module in modules(package)]
    assert sum(result.failed for result in results) == 0
    assert sum(result.attempted for result in results) > 0
