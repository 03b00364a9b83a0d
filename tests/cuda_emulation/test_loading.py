"""What is said where the plug-in, the driver or the GPU is not what it takes; a process each."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.cuda_emulation.library import KERNELS, MISSING

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)
ASK = "import ctypes, sys; f = ctypes.CDLL(sys.argv[1]).problem; f.restype = ctypes.c_char_p; "
ASK += "print(f(int(sys.argv[2])).decode())"


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A loader, plug-ins of both kinds (their entries do nothing) and a driver."""
    from tests.cuda_emulation import glue

    folder = tmp_path_factory.mktemp("pieces")
    includes = [f"-I{glue.BINDINGS}", f"-I{KERNELS.parent}", "-ldl"]
    loader = [glue.GLUE / "problem.cpp", glue.BINDINGS / "cuda_library.cpp"]
    glue.compile_shared(loader, folder / "loader.so", *includes)
    names = re.findall(
        r"PYCONVOPT_CUDA_API [\w ]+\*? (pyconvopt_cuda_\w+)\(", (KERNELS / "api.h").read_text()
    )
    answers = {"pyconvopt_cuda_runtime": 13000, "pyconvopt_cuda_oldest_capability": 80}
    version = int(re.search(r"CUDA_VERSION (\d+)", (KERNELS / "api.h").read_text())[1])
    for kind, own in {"good": version, "old": version - 1}.items():
        values = {**answers, "pyconvopt_cuda_version": own}
        source = folder / f"{kind}.cpp"
        lines = [f"int {n}() {{ return {values.get(n, 0)}; }}" for n in sorted({*names, *answers})]
        source.write_text("\n".join(['extern "C" {', *lines, "}"]))
        glue.compile_shared([source], folder / f"{kind}.so")
    glue.compile_driver(folder)
    return folder


@pytest.fixture
def problem(pieces, tmp_path):
    """problem(plug-in or none, driver?, device, FAKE_…=…): what the loader says."""

    def ask(plugin="good", driver=True, device=0, **environment):
        shutil.copy(pieces / "loader.so", tmp_path / "loader.so")
        if plugin:
            shutil.copy(pieces / f"{plugin}.so", tmp_path / "libpyconvopt_cuda.so")
        if driver:
            shutil.copy(pieces / "libcuda.so.1", tmp_path)
        variables = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), **environment}
        command = [sys.executable, "-c", ASK, str(tmp_path / "loader.so"), str(device)]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
        assert done.stdout.count("\n") == 1
        return done.stdout.strip()

    return ask


INSTEAD = "or let torch's kernels take over: pyconvopt.settings(cuda_fallback=True)"


def test_nothing_is_wrong(problem):
    assert problem() == ""
    assert problem(FAKE_DRIVER_VERSION="13020", FAKE_CAPABILITY="120") == ""


def test_missing_plugin(problem, tmp_path):
    told = problem(plugin=None)
    assert f"not in {tmp_path}: `make cuda` builds it" in told and told.endswith(INSTEAD)


def test_plugin_of_another_version(problem):
    assert "has interface version 2, expected 3" in problem("old")


def test_plugin_that_is_no_library(problem, tmp_path):
    (tmp_path / "libpyconvopt_cuda.so").write_text("nothing")
    assert "the CUDA plug-in cannot be loaded" in problem(plugin=None)


def test_plugin_without_an_entry(problem, pieces, tmp_path):
    from tests.cuda_emulation import glue

    source = tmp_path / "part.cpp"
    source.write_text(re.sub(r"int pyconvopt_cuda_adam\(.*", "", (pieces / "good.cpp").read_text()))
    glue.compile_shared([source], tmp_path / "libpyconvopt_cuda.so")
    assert "libpyconvopt_cuda.so has no entry pyconvopt_cuda_adam" in problem(plugin=None)


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a driver")
def test_no_driver(problem):
    told = problem(driver=False)
    assert "no NVIDIA driver" in told and "install one for CUDA 13.0" in told and INSTEAD in told


def test_old_driver(problem):
    told = problem(FAKE_DRIVER_VERSION="12040")
    assert "driver is for CUDA 12.4, the plug-in needs one for CUDA 13.0: update the driver" in told


def test_driver_that_does_not_start(problem):
    assert "reports error 999 from cuInit" in problem(FAKE_DRIVER_ERROR="999")


def test_old_gpu(problem):
    told = problem(FAKE_CAPABILITY="75")
    assert "compute capability 7.5, the plug-in was built for 8.0 and later" in told
    assert "CUDAARCHS=75" in told and told.endswith(INSTEAD)


def test_no_such_device(problem):
    assert "CUDA device 99 is out of range" in problem(device=99)
