"""What the machine can do at most: arithmetic and memory bandwidth, measured by this program.

Without more help these are torch's 1×1 convolution of 256 to 256 channels (a matrix product by oneDNN,
92 % of the peak of the multiply-add units where both were measured; torch's own product was at 41 % on
the same AVX-512 machine of AMD) and torch's copy of 256 MiB. The C++ kernel benchmarks, where they were
built, give the peak of the multiply-add units themselves and a memcpy by each thread. A copy's bytes are
those read and those written, not the extra read of lines about to be overwritten. Of each the fastest
run counts, with all threads.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.harness import Session
from benchmarks.problems import COPY, PRODUCT, Problem

TURN = {"warmup": 1, "seconds": 0.3, "at_least": 3}
MEASURED_BY = "torch.channels_last"


class Unknown(Exception):
    """Nothing here can measure the machine; the message says why."""


def measure(threads: int, python: dict[str, str], executable: Path | None) -> dict[str, Any]:
    """FLOP/s, bytes/s, and how each was measured.

    Errors: Unknown.
    """
    if executable is not None:
        return from_kernels(executable, threads)
    with Session([peers.TABLE[MEASURED_BY]], threads=threads, python=python) as session:
        flops = PRODUCT.flops() / shortest(session, PRODUCT)
        bytes_ = COPY.bytes() / shortest(session, COPY)
    return {
        "flops_per_second": flops,
        "flops_by": "torch's 1×1 convolution, 256 to 256 channels",
        "bytes_per_second": bytes_,
        "bytes_by": "torch's copy of 256 MiB, read + written",
    }


def shortest(session: Session, problem: Problem) -> float:
    """Seconds of the fastest run."""
    request = {"work": "layer", "problem": problem.request(), "pass": problem.passes[0]}
    measured = session.measure(request, problem.kind, rounds=2, turn=TURN, check_first=True)
    times: Sequence[float] = [
        time for peer in measured["peers"] for turn in peer["turns"] for time in turn
    ]
    if not times:
        raise Unknown(
            f"the machine cannot be measured: {measured['left_out'] | measured['failed']}"
        )
    return min(times)


def from_kernels(executable: Path, threads: int) -> dict[str, Any]:
    """From the C++ kernel benchmarks' rows machine/fma_peak and machine/copy."""
    command = [str(executable), "--benchmark_filter=^machine/", "--benchmark_format=json"]
    command += ["--benchmark_repetitions=3"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    try:
        done = subprocess.run(command, check=True, capture_output=True, env=environment)
        rows = json.loads(done.stdout)["benchmarks"]
        runs = [row for row in rows if row["run_type"] == "iteration"]
        fma = max(row["FLOP/s"] for row in runs if row["name"].startswith("machine/fma_peak"))
        copied = max(row["bytes/s"] for row in runs if row["name"].startswith("machine/copy"))
    except (OSError, subprocess.CalledProcessError, ValueError, KeyError) as error:
        raise Unknown(
            f"{executable} gives no machine/fma_peak and machine/copy: {error}"
        ) from error
    return {
        "flops_per_second": fma,
        "flops_by": "independent multiply-adds in registers",
        "bytes_per_second": copied,
        "bytes_by": "memcpy of 256 MiB, read + written",
    }


def describe(ceilings: dict[str, Any]) -> str:
    return (
        f"ceilings: {ceilings['flops_per_second'] / 1e9:.0f} GFLOP/s ({ceilings['flops_by']}), "
        f"{ceilings['bytes_per_second'] / 1e9:.1f} GB/s ({ceilings['bytes_by']})"
    )
