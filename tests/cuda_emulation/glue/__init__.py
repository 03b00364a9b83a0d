"""Builds the operators for CUDA tensors over the emulated kernels, and a machine that seems to have a GPU.

The sources are those of the extension module, unchanged but for where they register the operators
(`as_cpu.hpp`).
"""

from __future__ import annotations

import ctypes
import functools
import pathlib
import shutil
import subprocess
import sysconfig

import torch

from tests.cuda_emulation.library import COMPILER, HERE, KERNELS, built, cached

BINDINGS = KERNELS.parents[1] / "bindings"
GLUE = HERE / "glue"
NAMESPACE = "pyconvopt_emulated"
FLAGS = ["-std=c++20", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
TORCH = pathlib.Path(torch.__file__).parent
OPERATORS = [
    f"-include{GLUE / 'as_cpu.hpp'}",
    "-fvisibility=hidden",
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
    f"-isystem{TORCH / 'include'}",
]


def compile_shared(sources, to: pathlib.Path, *flags: str) -> pathlib.Path:
    """One shared library."""
    command = [COMPILER, *FLAGS, *map(str, sources), "-o", str(to), *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return to


def compile_driver(folder: pathlib.Path) -> pathlib.Path:
    """A driver, under the name that the loader asks for."""
    soname = "-Wl,-soname,libcuda.so.1"
    return compile_shared([GLUE / "driver.cpp"], folder / "libcuda.so.1", soname)


def _compile_operators(folder: pathlib.Path) -> None:
    compile_driver(folder)
    soname = "-Wl,-soname,libtorch_cuda.so"
    compile_shared([GLUE / "torch_cuda.cpp"], folder / "libtorch_cuda.so", soname)
    includes = [f"-I{BINDINGS}", f"-I{KERNELS.parent}"]
    jobs = []
    for source in [*_sources(), GLUE / "host_device.cpp"]:
        command = [COMPILER, *FLAGS, "-c", *OPERATORS, *includes, str(source)]
        command += ["-o", str(folder / f"{source.stem}.o")]
        jobs.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    errors = [job.communicate()[1] for job in jobs]
    if any(job.returncode for job in jobs):
        raise RuntimeError("\n".join(errors))
    link = [f"-L{TORCH / 'lib'}", "-ltorch_cpu", "-Wl,-Bsymbolic", "-ldl"]
    compile_shared(sorted(folder.glob("*.o")), folder / "operators.so", *link)


def _sources() -> list[pathlib.Path]:
    return [*sorted(BINDINGS.glob("torch_cuda_*.cpp")), BINDINGS / "cuda_library.cpp"]


@functools.cache
def operators():
    """(the operators' namespace in `torch.ops`, the library that notes guards)."""
    inputs = [
        *BINDINGS.iterdir(),
        *GLUE.iterdir(),
        KERNELS / "api.h",
        *KERNELS.parent.glob("*.hpp"),
    ]
    told = [str(COMPILER), *FLAGS, *OPERATORS, torch.__version__, sysconfig.get_platform()]
    folder = cached(inputs, told, _compile_operators)
    emulated = built("plain", tuple(sorted(KERNELS.glob("*.cu"))))
    plugin = folder / "libpyconvopt_cuda.so"
    if not plugin.exists() or plugin.read_bytes() != emulated.read_bytes():
        beside = plugin.with_suffix(".new")
        shutil.copy(emulated, beside)
        beside.rename(plugin)
    for library in ("libcuda.so.1", "libtorch_cuda.so"):
        ctypes.CDLL(str(folder / library))
    _define_schemas()
    notes = ctypes.CDLL(str(folder / "operators.so"))
    return getattr(torch.ops, NAMESPACE), notes


_definitions = []  # must outlive the operators


def _define_schemas() -> None:
    """The operators of the library, with their schemas, under the other namespace."""
    library = torch.library.Library(NAMESPACE, "DEF")
    _definitions.append(library)
    for schema in torch._C._jit_get_all_schemas():
        if schema.name.startswith("pyconvopt::"):
            library.define(str(schema).removeprefix("pyconvopt::"))
