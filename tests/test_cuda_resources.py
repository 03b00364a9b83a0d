"""`.ci/cuda_resources` reads what ptxas says and tells what changed."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import pathlib
import shutil
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / ".ci" / "cuda_resources"
NAME = "_ZN9pyconvopt4cuda43_GLOBAL__N__e1073192_10_dropout_cu_e8b2e67d13drop_elementsIfEEvPKfPf"
LOG = """
ptxas info    : Compiling entry function '{name}' for 'sm_80'
ptxas info    : Function properties for {name}
    {stack} bytes stack frame, {spilled} bytes spill stores, {spilled} bytes spill loads
ptxas info    : Used {registers} registers, used 1 barriers, 16896 bytes smem, 408 bytes cmem[0]
ptxas info    : Compile time = 5.666 ms
ptxas info    : Compiling entry function '{name}' for 'sm_90'
ptxas info    : Function properties for {name}
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 24 registers, used 0 barriers, 408 bytes cmem[0]
"""

pytestmark = [
    pytest.mark.skipif(not SCRIPT.exists(), reason="only in a checkout"),
    pytest.mark.skipif(shutil.which("c++filt") is None, reason="needs c++filt"),
]


@pytest.fixture
def script():
    loader = importlib.machinery.SourceFileLoader("cuda_resources", str(SCRIPT))
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_loader("cuda_resources", loader)
    )
    loader.exec_module(module)
    return module


def log(**changes):
    return LOG.format(**{"name": NAME, "stack": 0, "spilled": 0, "registers": 110, **changes})


@pytest.fixture
def build(tmp_path):
    """A build folder whose compiler is release 13.0.88."""
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n")
    nvcc.chmod(0o755)
    (tmp_path / "CMakeCache.txt").write_text(f"CMAKE_CUDA_COMPILER:FILEPATH={nvcc}\n")
    (tmp_path / "libpyconvopt_cuda.so").write_bytes(b"x" * 1000)
    (tmp_path / "log").write_text(log())
    return tmp_path


def run(script, monkeypatch, build, *more):
    monkeypatch.setattr(sys, "argv", ["cuda_resources", str(build), str(build / "table"), *more])
    return script.main()


def test_table_and_occupancy(script):
    table, spilling = script.table_of(log(), "nvcc 13.0.88")
    assert table.splitlines()[0] == "# nvcc 13.0.88"
    # 110 registers: 112 · 32 a warp, 18 warps fit, so 2 blocks of 8 out of 64. 24 registers: all.
    assert table.splitlines()[-1].split() == [
        "drop_elements<float>",
        "110",
        "16896",
        "25%",
        "24",
        "0",
        "100%",
    ]
    assert spilling == []


def test_what_changed_fails_until_it_is_accepted(script, monkeypatch, build, capsys):
    assert run(script, monkeypatch, build, "--write") == 0
    assert run(script, monkeypatch, build) == 0
    (build / "log").write_text(log(registers=130))
    assert run(script, monkeypatch, build) == 1
    assert "ACCEPT=--write" in capsys.readouterr().out
    assert run(script, monkeypatch, build, "--write") == 0
    assert run(script, monkeypatch, build) == 0


def test_spills_and_size_fail_whatever_the_table(script, monkeypatch, build, capsys):
    (build / "log").write_text(log(stack=8, spilled=4))
    assert run(script, monkeypatch, build, "--write") == 1
    assert "drop_elements<float> on sm_80: 8 bytes of stack, 4 spilled" in capsys.readouterr().out
    (build / "log").write_text(log())
    (build / "libpyconvopt_cuda.so").write_bytes(b"x" * (4 * 2**20 + 1))
    assert run(script, monkeypatch, build, "--write") == 1
    assert "4194305 bytes" in capsys.readouterr().out


def test_tables_of_two_compilers_are_not_compared(script, monkeypatch, build, capsys):
    (build / "table").write_text("# nvcc 12.9.1\n")
    assert run(script, monkeypatch, build) == 0
    assert "not compared" in capsys.readouterr().out
