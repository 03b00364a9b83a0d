from __future__ import annotations

import os

import pytest
import torch

import pyconvopt as pco
from pyconvopt import _C

os.environ.setdefault("KERAS_BACKEND", "torch")


def pytest_addoption(parser):
    group = parser.getgroup("pyconvopt")
    group.addoption(
        "--hypothesis-seconds",
        type=float,
        default=3.0,
        help="how long tests/reliability/test_random_problems.py draws problems (default 3)",
    )
    group.addoption("--large", action="store_true", help="also run what needs some 20 GB of memory")


@pytest.fixture(params=_C.available_isas())
def isa(request):
    """Runs the test once on every instruction set of this machine."""
    with pco.settings(isa=request.param):
        yield request.param


@pytest.fixture(autouse=True)
def _same_start():
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
