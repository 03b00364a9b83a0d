"""Seconds to a wanted test accuracy on Fashion-MNIST: recipes of this library beside Keras and torch.

Keras and torch train the article's network as their users write it (Adam, batch 64), and with a larger
batch. Every run is a process of its own; the entries take turns, seed by seed, and who begins rotates.
Reading the data and building the model count, starting the process and importing the library do not,
nor does looking at the test images after each epoch.

python -m benchmarks.time_to_accuracy --target 0.9 --seeds 5 --json time.json --png time.png
python -m benchmarks.time_to_accuracy --target 0.93 --entries fast93
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import benchmark, harness, images, machine, peers, report
from benchmarks.harness import Spread

WORK = "time_to_accuracy"
COLOURS = ("#1b6ca8", "#0f4c5c", "#8f5fb0", "#58a55c", "#d1495b", "#e8a0a8", "#7a7f85", "#b8bec6")


@dataclass(frozen=True)
class Entry:
    """A line of the table: what it is called, who trains it, images a step, more for its `make_…`."""

    name: str
    peer: str
    batch: int = 64
    options: dict[str, Any] = field(default_factory=dict)


TABLE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("fast", "pyconvopt", options={"recipe": "fast"}),
        Entry("fast93", "pyconvopt", options={"recipe": "fast93"}),
        Entry("tuned", "pyconvopt", options={"recipe": "tuned"}),
        Entry("seed", "pyconvopt", options={"recipe": "seed"}),
        Entry("keras", "keras.model"),
        Entry("keras-256", "keras.model", 256),
        Entry("torch", "torch.nchw"),
        Entry("torch-256", "torch.channels_last", 256),
    )
}


def seconds_to(points: Sequence[Sequence[float]], target: float) -> float | None:
    """The time of the first epoch that ended at the target or above; None if none did.

    >>> seconds_to([(1.0, 0.85), (2.0, 0.91), (3.0, 0.9)], 0.9)
    2.0
    """
    return next((seconds for seconds, accuracy in points if accuracy >= target), None)


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """The entries, beginning with another one each turn."""
    first = turn % len(names)
    return [*names[first:], *names[:first]]


def measure(options: argparse.Namespace, data: str, python: dict[str, str]) -> dict[str, Any]:
    """Every entry with every seed: the result that table, file and chart show.

    The file is written after each run, so that what was measured outlives a run that is broken off.
    """
    here = machine.describe()
    threads = options.threads or here["cores"]
    result: dict[str, Any] = {
        "benchmark": WORK,
        "target": options.target,
        "machine": here,
        "threads": threads,
        "runs": [],
        "left_out": {},
        "failed": {},
    }
    for seed in range(options.seeds):
        for name in rotated(options.entries, seed):
            if name in result["left_out"] | result["failed"]:
                continue
            entry = TABLE[name]
            # A recipe's schedule ends with its own epochs; the others go on until they are there.
            epochs = options.epochs or (None if "recipe" in entry.options else options.most)
            more = {**entry.options, "seed": seed, "epochs": epochs, "target": options.target}
            request = {"work": WORK, "model": "article", "batch": entry.batch, "data": data}
            chosen = peers.choose([entry.peer], WORK)
            label = f"{name}, seed {seed}"
            with harness.Session(
                chosen, threads=threads, python=python, tell=benchmark.progress
            ) as session:
                turn = {"warmup": 0, "seconds": 0.0, "at_least": 1}
                part = session.measure(
                    request | {"options": more}, label, rounds=1, turn=turn, check_first=False
                )
            for kind in ("left_out", "failed"):
                for reason in part[kind].values():
                    result[kind][name] = reason
            for worker in part["peers"]:
                run = {"entry": name, "seed": seed, "points": worker["check"]}
                result["runs"].append(run | {"version": worker["version"]})
            if options.json:
                report.write_json(result, options.json)
    benchmark.progress("")
    return result


def table(result: dict[str, Any]) -> str:
    """Median seconds to the target of the runs that reached it, and the last accuracy of all."""
    names = list(dict.fromkeys(run["entry"] for run in result["runs"]))
    names.sort(key=list(TABLE).index)
    lines = [
        f"seconds to a test accuracy of {result['target']:g}; data and building included, process "
        "start and testing not",
        report.machine_line(result),
        "",
        f"{'entry':<12}{'reached':>9}{'median s':>10}{'min–max':>16}{'last accuracy':>15}",
    ]
    for name in names:
        courses = [run["points"] for run in result["runs"] if run["entry"] == name]
        times = [seconds_to(points, result["target"]) for points in courses]
        reached = [each for each in times if each is not None]
        middle, span = "–", "–"
        if reached:
            spread = Spread.of(reached)
            middle, span = f"{spread.median:.2f}", f"{spread.low:.2f}–{spread.high:.2f}"
        last = Spread.of([points[-1][1] for points in courses]).median
        count = f"{len(reached)}/{len(courses)}"
        lines.append(f"{name:<12}{count:>9}{middle:>10}{span:>16}{last:>15.4f}")
    for kind in ("left_out", "failed"):
        words = kind.replace("_", " ")
        lines += [f"{words}: {name}: {reason}" for name, reason in result[kind].items()]
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """Test accuracy against wall-clock time: a line for each run, a colour for each entry."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    named: set[str] = set()
    for run in result["runs"]:
        name = run["entry"]
        colour = COLOURS[list(TABLE).index(name) % len(COLOURS)]
        seconds, accuracy = zip(*run["points"], strict=True)
        label = name if name not in named else None
        named.add(name)
        axes.plot(seconds, accuracy, "o-", ms=3, lw=1.2, alpha=0.75, color=colour, label=label)
    axes.axhline(result["target"], color="#888888", ls=":", label=f"target {result['target']:g}")
    axes.set(xlabel="seconds, data and building included", ylabel="test accuracy", xscale="log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_title(f"{result['machine']['processor']}, {result['threads']} threads", fontsize=10)
    axes.grid(alpha=0.25, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, format="png")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--entries", nargs="+", default=list(TABLE), metavar="ENTRY",
        help=f"default: {' '.join(TABLE)}")  # fmt: skip
    add("--target", type=float, default=0.9, help="the test accuracy; default 0.9")
    add("--seeds", type=int, default=5, help="runs of each entry; default 5")
    add("--epochs", type=int, help="at most, of every entry; default: a recipe's own, --most")
    add("--most", type=int, default=20, help="epochs of Keras and torch at most; default 20")
    add("--samples", type=int, help="only so many training images")
    add("--threads", type=int, help="of each run; default: all cores")
    add("--python", action="append", default=[], metavar="FAMILY=PATH",
        help="the interpreter of a family of peers, such as keras; also by the variable "
        "PYCONVOPT_BENCH_PYTHON_<FAMILY>; default: this one")  # fmt: skip
    add("--json", type=Path, help="write all raw figures to this file")
    add("--png", type=Path, help="draw the courses into this file")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write. Exit status 0; 1 if a run failed or none was made; 2: usage."""
    options = parsed(arguments)
    try:
        for name in options.entries:
            if name not in TABLE:
                raise ValueError(f"unknown entry {name!r}; known: {', '.join(TABLE)}")
        benchmark.require_positive(options, ("seeds", "epochs", "most", "samples", "threads"))
        if not 0 < options.target <= 1:
            raise ValueError(f"--target must lie in 0 … 1, got {options.target}")
        python = benchmark.interpreters(options.python)
        report.require_writable(options.json, options.png)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fashion-mnist.npz"
        try:
            images.store(path, options.samples)
        except (ImportError, OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        result = measure(options, str(path), python)
    print(table(result))
    if options.png and result["runs"]:
        draw(result, options.png)
    return 0 if result["runs"] and not result["failed"] else 1


if __name__ == "__main__":
    sys.exit(main())
