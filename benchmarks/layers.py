"""Layers alone, those of `layers.inc`: each pass of this project, torch, and the inference runtimes.

A peer keeps one process for all layers and takes its turns in it; where memory happens to lie, which
can make a process slow for all its life, is drawn anew with the tensors of each layer. ÷ best is the
time of the fastest other peer over ours. GFLOP/s of a convolution count the operations of its
definition, whatever the algorithm; GB/s every tensor read or written once.

python -m benchmarks.layers --network resnet18 --batch 1 8 64 --json layers.json --png roofline.png
python -m benchmarks.layers --scaling --json scaling.json --png scaling.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import ceilings, layer_report, machine, peers, problems, report, scaling
from benchmarks.benchmark import common_options, interpreters, progress, require_positive
from benchmarks.harness import Session
from benchmarks.problems import CONVOLUTION_PASSES

TURN = {"warmup": 1, "at_least": 2}
MEMORY_SHARE = 0.8  # of what is free: beyond it a layer is left out


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    table = problems.read()
    add = parser.add_argument
    add("--network", nargs="+", default=[], metavar="NAME",
        help=f"default all: {' '.join(problems.networks(table))}")  # fmt: skip
    add("--kind", nargs="+", default=[], metavar="KIND",
        help=f"default all: {' '.join(dict.fromkeys(p.kind for p in table))}")  # fmt: skip
    add("--batch", type=int, nargs="+", default=[8], help="default: 8")
    add("--passes", nargs="+", default=list(CONVOLUTION_PASSES), choices=CONVOLUTION_PASSES,
        help="of the convolutions; default: all")  # fmt: skip
    add("--scaling", action="store_true",
        help="instead of the networks' layers: time against batch, channels, size, threads")  # fmt: skip
    add("--ceilings", type=Path, metavar="EXECUTABLE",
        help="the C++ kernel benchmarks, to take peak and bandwidth from them "
        "instead of torch's convolution and copy")  # fmt: skip
    common_options(parser, "layer", rounds=5, seconds=0.02)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write. Exit status 0; 1 if a peer failed or none is there; 2: usage."""
    options = parser().parse_args(arguments)
    try:
        chosen = peers.choose(options.peers, "layer")
        python = interpreters(options.python)
        require_positive(options)
        report.require_writable(options.json, options.png)
        table = problems.select(options.network, options.kind, options.batch, problems.read())
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    here = machine.describe()
    threads = options.threads or here["cores"]
    result: dict[str, Any] = {
        "benchmark": "scaling" if options.scaling else "layers",
        "title": "layers",
        "unit": "ms",
        "per_second": 1e3,
        "machine": here,
        "threads": threads,
        "rounds": options.rounds,
        "processes": 1,
        "turn": TURN | {"seconds": options.seconds},
        "peers": [peer.name for peer in chosen],
        "layers": [],
    }
    print(report.heading(result), flush=True)
    try:
        result["ceilings"] = ceilings.measure(threads, python, options.ceilings)
    except ceilings.Unknown as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(ceilings.describe(result["ceilings"]), flush=True)
    print("\n" + layer_report.header(result), flush=True)
    if options.scaling:
        steps: Iterator[scaling.Step] = scaling.steps(threads)
    else:
        steps = (scaling.Step(problem, threads, {}) for problem in table)
    interrupted = False
    try:
        for threads_used, group in scaling.by_threads(steps):
            with Session(chosen, threads=threads_used, python=python, tell=progress) as session:
                for step in group:
                    for entry in measure(session, step, options.passes, result):
                        result["layers"].append(entry)
                        progress("")
                        print(layer_report.row(result, entry), flush=True)
    except KeyboardInterrupt:  # hours of figures are not thrown away
        interrupted = True
        print("\ninterrupted: what follows is of the layers above", flush=True)
    print("\n" + layer_report.summary(result), flush=True)
    if options.json:
        report.write_json(result, options.json)
    if options.png and any(entry["peers"] for entry in result["layers"]):
        layer_report.draw(result, options.png)
    complete = all(entry["peers"] and not entry["failed"] for entry in result["layers"])
    return 0 if complete and result["layers"] and not interrupted else 1


def measure(
    session: Session, step: scaling.Step, passes: Sequence[str], result: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The chosen passes of one layer: facts of the layer, and the session's report."""
    problem = step.problem
    for pass_ in problem.passes:
        if problem.kind == "convolution" and pass_ not in passes:
            continue
        facts = {
            "problem": problem.request(),
            "name": str(problem),
            "pass": pass_,
            "group": problem.group(pass_),
            "flops": problem.flops(),
            "bytes": problem.bytes(),
            "threads": step.threads,
            **step.facts,
        }
        needed, free = problem.memory() * len(session.peers), machine.free_memory()
        if needed > MEMORY_SHARE * free:
            reason = f"needs about {needed / 2**30:.1f} GiB, {free / 2**30:.1f} are free"
            left_out = {peer.name: reason for peer in session.peers}
            yield {**facts, "peers": [], "left_out": left_out, "failed": {}}
            continue
        request = {"work": "layer", "problem": problem.request(), "pass": pass_}
        yield facts | session.measure(
            request,
            f"{problem}, batch {problem.batch}, {pass_}",
            rounds=result["rounds"],
            turn=result["turn"],
            check_first=True,
        )


if __name__ == "__main__":
    sys.exit(main())
