"""What an installed pyconvopt promises before any kernel runs."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys

import pytest
import torch

import pyconvopt as pco
from pyconvopt import _C


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_imports_with_torch_and_numpy_alone():
    """No optional package is loaded by the import, nor by a module that works without it."""
    code = """
import sys, json
before = set(sys.modules)
import torch, numpy
torch_brings = set(sys.modules)
import pyconvopt as pco
pco.nn, pco.functional, pco.layers, pco.models, pco.optimizers
print(json.dumps(sorted({m.split('.')[0] for m in set(sys.modules) - torch_brings})))
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    optional = {"typer", "rich", "matplotlib", "safetensors", "keras", "tensorflow"}
    assert not optional & set(json.loads(result.stdout))


def test_one_openmp_runtime_that_obeys_torch():
    threadpoolctl = pytest.importorskip("threadpoolctl", reason="needs threadpoolctl")
    x = torch.randn(2, 32, 16, 16)
    pco.nn.Conv2d(32, 64, 3)(x)
    runtimes = [i for i in threadpoolctl.threadpool_info() if i["user_api"] == "openmp"]
    assert len(runtimes) == 1, runtimes
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert threadpoolctl.threadpool_info() and runtimes[0]["filepath"]
        info = [i for i in threadpoolctl.threadpool_info() if i["user_api"] == "openmp"]
        assert info[0]["num_threads"] == threads


def test_environment_forces_an_instruction_set():
    for isa in _C.available_isas():
        result = run_python("import pyconvopt; print(pyconvopt._C.isa())", PYCONVOPT_ISA=isa)
        assert result.stdout.strip() == isa, result.stderr


def test_unusable_instruction_set_in_the_environment_is_one_clear_error():
    result = run_python("import pyconvopt; pyconvopt._C.isa()", PYCONVOPT_ISA="mmx")
    assert result.returncode == 1
    assert result.stderr.strip().endswith(
        f"instruction set 'mmx' is not usable here; usable: reference, {', '.join(_C.available_isas())}"
    )


def test_winograd_off_by_environment():
    result = run_python("import pyconvopt; print(pyconvopt._C.winograd())", PYCONVOPT_WINOGRAD="0")
    assert result.stdout.strip() == "False"


def test_settings_restore_what_was_before():
    before = pco.settings.current()
    with pco.settings(winograd=False, isa="baseline"):
        assert pco.settings.current() == {**before, "winograd": False, "isa": "baseline"}
    assert pco.settings.current() == before
    with pytest.raises(
        TypeError, match="unknown setting 'winogard'; known: cuda_conv, cuda_fallback"
    ):
        pco.settings(winogard=True)
    with pytest.raises(ValueError):
        pco.settings(winograd=False, isa="nonsense")
    assert pco.settings.current() == before, "a refused change leaves nothing half done"


def test_kernels_of_one_instruction_set_share_no_code_with_another():
    """Inline functions compiled for AVX must not be what a baseline machine runs.

    The linker merges weak symbols of the same name across objects and keeps any one of them; so
    objects compiled for an instruction set may define none outside their own namespace.
    """
    objects = sorted(pathlib.Path("build").glob("cp*/csrc/kernels/CMakeFiles/kernels_*/**/*.o"))
    if not objects:
        pytest.skip("no build tree here")
    for path in objects:
        isa = next(part for part in path.parts if part.startswith("kernels_"))[8:].split(".")[0]
        symbols = subprocess.run(
            ["nm", "--demangle", "--defined-only", str(path)], capture_output=True, text=True
        ).stdout
        for line in symbols.splitlines():
            _, kind, name = line.split(maxsplit=2)
            if kind in "WVu" and not name.startswith("DW.ref."):
                assert f"pyconvopt::cpu::{isa}::" in name, f"{path}: weak symbol {name}"


def test_version_is_the_distributions():
    assert importlib.metadata.version("pyconvopt") == pco.__version__


@pytest.mark.parametrize("module", ["averaging", "callbacks", "layers", "nn", "training"])
def test_every_part_can_be_imported_first(module):
    code = f"import pyconvopt.{module}"
    subprocess.run([sys.executable, "-c", code], check=True)
