"""What this machine and installation are, and what of it makes training slow: for `pyconvopt doctor`."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from pyconvopt import _C, __version__, data

REQUIRED = ("torch", "numpy")
# Optional packages, and the extra that brings each.
OPTIONAL = {
    "typer": "cli",
    "rich": "cli",
    "matplotlib": "cli",
    "safetensors": "cli",
    "pillow": "images",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "tensorboard": "tensorboard",
    "pytorch-optimizer": "optimizers",
    "optuna": "optuna",
}
# Variables that change how many threads compute, and where.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "KMP_AFFINITY")
PLACES = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
OPENMP = re.compile(r"lib(gomp|iomp5|omp)[-.\w]*\.so[.\d]*$")


def version(package: str) -> str | None:
    """An installed package's version."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def openmp_runtimes(maps: str | None = None) -> list[str]:
    """The OpenMP libraries loaded in this process; `maps` stands for /proc/self/maps.

    >>> line = '7f0 r-xp 0 08:01 7 /usr/lib/libgomp.so.1.0.0'
    >>> openmp_runtimes(f'{line}\\n{line}\\n7f1 r-xp 0 08:01 8 /usr/lib/libm.so.6')
    ['/usr/lib/libgomp.so.1.0.0']
    """
    if maps is None:
        try:
            maps = Path("/proc/self/maps").read_text()
        except OSError:  # not Linux
            return []
    files = {line.split(maxsplit=5)[-1] for line in maps.splitlines() if "/" in line}
    return sorted(file for file in files if OPENMP.search(file))


def processors() -> int:
    """The processors this process may use; a variable that binds threads hides all but one."""
    bound = any(name in os.environ for name in PLACES)
    if hasattr(os, "sched_getaffinity") and not bound:
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load() -> float:
    """How many programs want to run, on average over the last minute; 0 where nobody counts."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def facts() -> dict[str, Any]:
    """Versions, kernels, threads, OpenMP, data sets, and `advice`: what is slow and why."""
    found: dict[str, Any] = {
        "python": f"{platform.python_version()} on {platform.platform()}",
        "packages": {"pyconvopt": version("pyconvopt") or __version__}
        | {name: version(name) for name in (*REQUIRED, *OPTIONAL)},
        "instruction_set": _C.isa(),
        "available": _C.available_isas(),
        "winograd": _C.winograd(),
        "threads": torch.get_num_threads(),
        "processors": processors(),
        "load": load(),
        "openmp": openmp_runtimes(),
        "environment": {
            name: os.environ[name]
            for name in sorted(os.environ)
            if name in THREADS + PLACES or name.startswith("PYCONVOPT_")
        },
        "data": {
            name: next((str(each) for each in data.folders(name) if each.is_dir()), None)
            for name in data.CLASS_NAMES
        },
    }
    return found | {"advice": advice(found)}


def advice(found: dict[str, Any]) -> list[str]:
    """What makes training slow here, or will stop it, and what to do."""
    said = []
    threads, cores, best = found["threads"], found["processors"], found["available"][-1]
    variables = found["environment"]
    cause = ", ".join(f"{name}={variables[name]}" for name in THREADS if name in variables)
    because = f" ({cause})" if cause else ""
    if threads > cores:
        said.append(
            f"{threads} threads share {cores} processors{because}: they wait for each other; set "
            f"OMP_NUM_THREADS={cores}"
        )
    elif threads < cores:
        said.append(
            f"{threads} of {cores} processors compute{because}: set OMP_NUM_THREADS={cores} for all"
        )
    if found["load"] > cores:
        said.append(
            f"other programs are busy: {found['load']:.1f} want to run on {cores} processors"
        )
    if found["instruction_set"] != best:
        said.append(
            f"the kernels use {found['instruction_set']}, the machine has {best}: unset PYCONVOPT_ISA"
        )
    elif best == "baseline":
        said.append("the processor has no AVX2: the kernels are a few times slower than with it")
    if not found["winograd"]:
        said.append(
            "Winograd's algorithm is off, 3×3 convolutions are slower: unset PYCONVOPT_WINOGRAD"
        )
    if len(found["openmp"]) > 1:
        said.append(
            f"{len(found['openmp'])} OpenMP runtimes are loaded: their thread pools take the "
            "processors from each other; keep one in the environment"
        )
    said += [
        f"{name}={variables[name]} is set: threads may be bound or left spinning; unset it if steps "
        "are slower than expected"
        for name in PLACES
        if name in variables
    ]
    missing: dict[str, list[str]] = {}
    for name, extra in OPTIONAL.items():
        if found["packages"][name] is None:
            missing.setdefault(extra, []).append(name)
    said += [
        f'{", ".join(names)} missing: pip install "pyconvopt[{extra}]" if you want what it brings'
        for extra, names in missing.items()
    ]
    return said


def report(found: dict[str, Any]) -> str:
    """The facts as lines of text."""
    lines = [("python", found["python"])]
    lines += [(name, each or "missing") for name, each in found["packages"].items()]
    isas = ", ".join(found["available"])
    lines += [
        ("instruction set", f"{found['instruction_set']} (this machine has {isas})"),
        ("threads", f"{found['threads']} of {found['processors']} processors"),
        ("OpenMP", ", ".join(found["openmp"]) or "no library found in this process"),
        *found["environment"].items(),
    ]
    lines += [
        (name, place or "not here yet; fetched when first used")
        for name, place in found["data"].items()
    ]
    text = [f"{name:<17} {each}" for name, each in lines]
    return "\n".join([*text, "", *(found["advice"] or ["nothing here makes training slow"])])
