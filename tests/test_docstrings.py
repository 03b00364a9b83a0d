"""The examples in docstrings, run for every module of the package."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import pyconvopt

MODULES = [
    found.name
    for found in pkgutil.walk_packages(pyconvopt.__path__, "pyconvopt.")
    if not found.name.startswith(("pyconvopt._C", "pyconvopt.__main__", "pyconvopt.libpyconvopt"))
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0, f"{result.failed} of {result.attempted} examples; shown above"


def test_there_are_examples():
    assert "pyconvopt.schedules.base" in MODULES and len(MODULES) > 50
