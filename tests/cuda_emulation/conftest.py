from __future__ import annotations

import os

import pytest

from tests.cuda_emulation.library import MISSING, Library


def _library(variant):
    if MISSING:
        pytest.skip(MISSING)
    return Library(os.environ.get("PYCONVOPT_EMULATION", variant))


@pytest.fixture(scope="session")
def cuda():
    """The CUDA kernels, every access to memory checked."""
    return _library("recorded")


@pytest.fixture(scope="session")
def fast_cuda():
    """The CUDA kernels without checks, for large maps."""
    return _library("plain")
