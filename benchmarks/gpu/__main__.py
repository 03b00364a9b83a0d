"""The CUDA kernels beside torch's, timed by CUDA events on this machine's GPU.

A row: median milliseconds of both, how many times as fast ours is (median of paired rounds), the
bytes it has to move against the GPU's peak bandwidth, its operations against the peak.

python -m benchmarks.gpu --batch 32 --channels 64 --size 56 --layout nhwc --json gpu.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.problems import KERNELS, Gpu, Shape
from pyconvopt import _C

LAYOUTS = {"nhwc": torch.channels_last, "nchw": torch.contiguous_format}
CALLS_A_ROUND = 10
# Fused multiply-adds of float32 a multiprocessor and clock, by compute capability.
CORES = {(8, 0): 64}
OTHER_CORES = 128
COLUMNS = ("kernel", "ours", "torch", "times as fast", "GB/s", "of peak", "TFLOP/s", "of peak")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--batch", type=int, default=32)
    add("--channels", type=int, default=64)
    add("--size", type=int, default=56, help="height and width; default: 56")
    add("--layout", choices=LAYOUTS, default="nhwc")
    add("--kernels", nargs="+", default=[""], metavar="PART", help="names that contain PART alone")
    add("--rounds", type=int, default=20)
    add("--json", type=Path, help="also write the figures, every round, to this file")
    return parser


def this_gpu() -> Gpu:
    """The GPU's name and peaks, from its clocks; tensor cores' peak is that of no one table: 0."""
    p = torch.cuda.get_device_properties(0)
    bandwidth = 2e3 * p.memory_clock_rate * p.memory_bus_width / 8
    cores = CORES.get((p.major, p.minor), OTHER_CORES)
    return Gpu(p.name, bandwidth, 2e3 * p.clock_rate * cores * p.multi_processor_count)


def milliseconds(call: Callable[[], object]) -> float:
    """One round: the time of a call, in a queue of several."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(CALLS_A_ROUND):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / CALLS_A_ROUND


def measure(kernel, shape: Shape, layout: str, rounds: int) -> dict[str, Any]:
    """Paired rounds of both, after two rounds that are not counted."""
    from benchmarks.gpu.calls import arithmetic, calls

    with arithmetic(kernel):
        ours, theirs = calls(kernel, shape, LAYOUTS[layout])
        pairs = [(milliseconds(ours), milliseconds(theirs)) for _ in range(rounds + 2)][2:]
    return {"kernel": kernel.name, "bytes": kernel.bytes(shape), "flops": kernel.flops(shape),
            "arithmetic": kernel.arithmetic, "rounds": pairs}  # fmt: skip


def row(measured: dict[str, Any], gpu: Gpu) -> tuple[str, ...]:
    """A line of the table."""
    ours, theirs = (statistics.median(r[i] for r in measured["rounds"]) for i in (0, 1))
    faster = statistics.median(t / o for o, t in measured["rounds"])
    moved, computed = measured["bytes"] / ours * 1e3, measured["flops"] / ours * 1e3
    peak = getattr(gpu, measured["arithmetic"])
    return (
        measured["kernel"], f"{ours:.3f}", f"{theirs:.3f}", f"{faster:.2f}",
        f"{moved / 1e9:.0f}", f"{moved / gpu.bandwidth:.0%}",
        f"{computed / 1e12:.2f}", f"{computed / peak:.0%}" if peak else "",
    )  # fmt: skip


def table(measured: Sequence[dict[str, Any]], gpu: Gpu) -> str:
    """All lines, in columns."""
    lines = [COLUMNS, *(row(m, gpu) for m in measured)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    return "\n".join(
        line[0].ljust(widths[0])
        + "".join(
            "  " + cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)
        )
        for line in lines
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write. Exit status 0; 1 without a usable GPU; 2: usage."""
    options = parser().parse_args(arguments)
    chosen = [k for k in KERNELS if any(part in k.name for part in options.kernels)]
    if not chosen:
        print(f"no kernel's name contains {' or '.join(map(repr, options.kernels))}; "
              f"there are: {', '.join(k.name for k in KERNELS)}", file=sys.stderr)  # fmt: skip
        return 2
    if min(options.batch, options.channels, options.rounds) < 1 or options.size < 2:
        print("batch, channels and rounds must be at least 1, size at least 2", file=sys.stderr)
        return 2
    problem = (
        "torch sees no NVIDIA GPU: run this on a machine that has one, with a torch built for CUDA"
    )
    if torch.cuda.is_available():
        problem = _C.cuda_problem(0)
    if problem:
        print(problem, file=sys.stderr)
        return 1
    gpu, shape = this_gpu(), Shape(options.batch, options.channels, options.size, options.size)
    measured = [measure(k, shape, options.layout, options.rounds) for k in chosen]
    print(f"{gpu.name}, torch {torch.__version__}, {shape}, {options.layout}: milliseconds, "
          f"median of {options.rounds} rounds of {CALLS_A_ROUND} calls")  # fmt: skip
    print(table(measured, gpu))
    if options.json:
        result = {"gpu": vars(gpu), "torch": torch.__version__, "shape": vars(shape),
                  "layout": options.layout, "kernels": measured}  # fmt: skip
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
