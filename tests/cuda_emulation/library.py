"""Builds the kernels' CUDA sources for the emulation, and calls them.

The library is compiled once for a state of the sources into the system's folder for temporary files.
`recorded`: every access to memory is checked (recorder.cpp); `plain`: ten times as fast, for large runs;
`covered`: counts the lines that ran, for gcov (docs/cuda.md says how).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator

import torch

HERE = pathlib.Path(__file__).parent
KERNELS = HERE.parents[1] / "csrc" / "kernels" / "cuda"
COMPILER = shutil.which(os.environ.get("CXX", "g++"))
# Why the emulation cannot be built here, or nothing.
MISSING = (
    "" if COMPILER and KERNELS.exists() else "needs a C++ compiler and the sources of the kernels"
)

COMMON = [
    "-std=c++20",
    "-O1",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-gnu-unique",
    "-ffp-contract=off",
]
COMMON += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-U_FORTIFY_SOURCE"]
# Without scalar replacement a load of four elements stays one access, as on the GPU.
RECORDED = ["-fsanitize=thread", "-fno-tree-sra", "-fno-ipa-sra", "-Wno-tsan"]
VARIANTS = {"recorded": RECORDED, "plain": ["-O2"], "covered": ["-O0", "--coverage"]}
C_TYPES = {
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "uint64_t": ctypes.c_uint64,
    "double": ctypes.c_double,
}


def compile_library(sources: list[pathlib.Path], folder: pathlib.Path, flags: list[str]) -> None:
    """Objects and then `library.so` in `folder`; the emulator itself is never instrumented."""
    jobs = []
    for source in [*sources, HERE / "emulator.cpp", HERE / "recorder.cpp"]:
        extra = flags if source in sources else ["-O2"]
        command = [COMPILER, *COMMON, *extra, f"-I{HERE / 'include'}", f"-I{KERNELS}"]
        command += ["-x", "c++", "-c", str(source), "-o", str(folder / f"{source.stem}.o")]
        jobs.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    errors = [job.communicate()[1] for job in jobs]
    if any(job.returncode for job in jobs):
        raise RuntimeError("\n".join(errors))
    objects = [
        str(folder / f"{s.stem}.o")
        for s in [*sources, HERE / "emulator.cpp", HERE / "recorder.cpp"]
    ]
    link = [COMPILER, "-shared", *[f for f in flags if f == "--coverage"], *objects]
    subprocess.run([*link, "-o", str(folder / "library.so")], check=True)


def cached(inputs: list[pathlib.Path], told: list[str], build: Callable) -> pathlib.Path:
    """The folder that `build` filled, once for a state of the inputs and of what else was told."""
    digest = hashlib.sha256(repr(told).encode())
    for path in sorted({p for p in inputs if p.is_file()}):
        digest.update(path.name.encode() + path.read_bytes())
    folder = pathlib.Path(tempfile.gettempdir()) / f"pyconvopt_cuda_emulation_{os.getuid()}"
    folder.mkdir(exist_ok=True)
    final = folder / digest.hexdigest()[:20]
    if not final.exists():
        work = pathlib.Path(tempfile.mkdtemp(dir=folder))
        try:
            build(work)
            work.rename(final)
        except OSError:
            if not final.exists():  # else another process was first
                raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return final


@functools.cache
def built(variant: str, sources: tuple[pathlib.Path, ...]) -> pathlib.Path:
    """The library of these sources, compiled if the sources changed."""
    flags = VARIANTS[variant]
    inputs = [*KERNELS.iterdir(), *HERE.glob("*.?pp"), *(HERE / "include").iterdir(), *sources]
    told = [str(COMPILER), *COMMON, *flags, *(s.name for s in sources)]
    return (
        cached(inputs, told, lambda folder: compile_library(list(sources), folder, flags))
        / "library.so"
    )


@functools.cache
def structures() -> dict[str, type[ctypes.Structure]]:
    """The structures of api.h, read from it."""
    text = re.sub(r"/\*.*?\*/", "", (KERNELS / "api.h").read_text(), flags=re.S)
    found: dict[str, type[ctypes.Structure]] = {}
    for name, body in re.findall(r"struct (\w+) \{(.*?)\};", text, flags=re.S):
        fields = []
        for declaration in filter(None, map(str.strip, body.split(";"))):
            words, names = re.fullmatch(r"((?:const |struct )*\w+\*?) (.*)", declaration).groups()
            kind = words.replace("const ", "").replace("struct ", "")
            c_type = ctypes.c_void_p if "*" in kind else C_TYPES.get(kind) or found[kind]
            fields += [(field, c_type) for field in names.split(", ")]
        constant = set(re.findall(r"const (?:struct )?\w+\* (\w+)", body))
        found[name] = type(name, (ctypes.Structure,), {"_fields_": fields, "constant": constant})
    return found


@functools.cache
def entries() -> dict[str, str]:
    """Name of the structure each entry takes."""
    text = (KERNELS / "api.h").read_text()
    return dict(re.findall(r"int (pyconvopt_cuda_\w+)\(const struct (\w+)\*", text))


class CudaError(RuntimeError):
    """An entry returned a code that is not 0."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code


class Library:
    """The entries of one built library, called with tensors."""

    def __init__(self, variant: str, sources: tuple[pathlib.Path, ...] | None = None):
        kernels = tuple(sorted(KERNELS.glob("*.cu"))) if sources is None else sources
        self.c = ctypes.CDLL(str(built(variant, kernels)))
        self.c.emulation_message.restype = ctypes.c_char_p
        self.c.emulation_register.argtypes = [
            ctypes.c_char_p,
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_int,
        ]

    def register(self, name: str, tensor: torch.Tensor, writable: bool = True) -> int:
        """Lets kernels access the tensor's memory; returns its address."""
        size = tensor.numel() * tensor.element_size()
        if tensor.numel() == 0:
            return 0
        self.c.emulation_register(name.encode(), tensor.data_ptr(), size, writable)
        return tensor.data_ptr()

    def structure(self, kind: str, fields: dict) -> ctypes.Structure:
        """The structure with tensors as registered pointers and dicts as structures in it."""
        values = {}
        types = dict(structures()[kind]._fields_)
        for name, value in fields.items():
            if isinstance(value, dict):
                value = self.structure(types[name].__name__, value)
            elif isinstance(value, torch.Tensor):
                value = self.register(name, value, name not in structures()[kind].constant)
            values[name] = value
        return structures()[kind](**values)

    def run(self, entry: str, **fields: object) -> None:
        """Calls an entry; workspace of the size it asks for, full of NaN, is added."""
        function = f"pyconvopt_cuda_{entry}"
        try:
            problem = self.structure(entries()[function], fields)
            if hasattr(problem, "workspace"):
                ask = getattr(self.c, f"{function}_workspace")
                ask.restype = ctypes.c_int64
                space = torch.full((ask(ctypes.byref(problem)),), 255, dtype=torch.uint8)
                problem.workspace = self.register("workspace", space)
            self.check(getattr(self.c, function)(ctypes.byref(problem), None))
        finally:
            self.c.emulation_forget()

    def check(self, code: int) -> None:
        """Raises for a code that is not 0, with what the emulation has to say."""
        if code:
            self.c.pyconvopt_cuda_error.restype = ctypes.c_char_p
            told = self.c.emulation_message() if code == 719 else self.c.pyconvopt_cuda_error(code)
            raise CudaError(code, told.decode())

    @contextlib.contextmanager
    def tracing(self, least_bytes: int = 0) -> Iterator[dict[str, int]]:
        """Counts what the kernels inside do; sectors in buffers of at least so many bytes."""
        counted: dict[str, int] = {}
        self.counters()
        self.c.emulation_trace(1, ctypes.c_size_t(least_bytes))
        yield counted
        self.c.emulation_trace(0, ctypes.c_size_t(0))
        counted.update(self.counters())

    def counters(self) -> dict[str, int]:
        """What the recorder counted since the last call."""
        to = (ctypes.c_uint64 * 5)()
        self.c.emulation_counters(to)
        return dict(zip(("read", "written", "sectors", "asked", "bank_conflicts"), to, strict=True))
