"""What a figure depends on besides the code: processor, instruction set, load, settings."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

# Best first: the name, and the flag of /proc/cpuinfo that shows it.
INSTRUCTION_SETS = {"AVX-512": "avx512f", "AVX2": "avx2", "NEON": "asimd", "SSE4.2": "sse4_2"}
SETTINGS = (
    "PYCONVOPT_ISA",
    "PYCONVOPT_WINOGRAD",
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "OMP_WAIT_POLICY",
    "KMP_BLOCKTIME",
    "LD_PRELOAD",
)


def describe() -> dict[str, Any]:
    """The machine as a dict for the report.

    instruction_set is what the processor has; what each library uses stands in its version.
    """
    fields: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().split("\n\n")[0].splitlines():
            name, _, value = line.partition(":")
            fields[name.strip()] = value.strip()
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    found = [name for name, flag in INSTRUCTION_SETS.items() if flag in flags]
    return {
        "processor": fields.get("model name") or platform.processor() or platform.machine(),
        "instruction_set": found[0] if found else platform.machine(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "settings": {name: os.environ[name] for name in SETTINGS if name in os.environ},
    }


def free_memory() -> int:
    """Bytes that programs can still take."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = meminfo.read_text().splitlines()
        free = next((line.split()[1] for line in lines if line.startswith("MemAvailable")), None)
        if free is not None:
            return int(free) << 10
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
