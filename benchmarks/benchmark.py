"""What the benchmarks have in common: options, the loop over models, the report."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import harness, machine, models, peers, report

DataFile = Callable[[models.Model, int, list[peers.Peer]], str | None]


@dataclass(frozen=True)
class Benchmark:
    """A kind of work, and how it is asked for and shown.

    work: the `make_…` of the peers. title: for heading and chart. unit, per_second: how times are
    shown. rounds, processes, seconds, warmup, at_least: the turns; see `harness`. check: the name
    of the workload's number, check_first: whether it is asked before the first turn or after the
    last. total: whether the sum over the rounds means something. models, batches: those measured
    by default; no batches: each model's own.
    """

    work: str
    title: str
    unit: str
    per_second: float
    check: str
    check_first: bool
    rounds: int
    processes: int = 1
    seconds: float = 0.0
    warmup: int = 0
    at_least: int = 1
    total: bool = False
    models: tuple[str, ...] = tuple(models.TABLE)
    batches: tuple[int, ...] = ()

    def parser(self, description: str) -> argparse.ArgumentParser:
        """The options, of which `common_options` are those of every benchmark."""
        parser = argparse.ArgumentParser(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        add = parser.add_argument
        add("--models", nargs="+", default=list(self.models), metavar="MODEL",
            help=f"default: {' '.join(self.models)}")  # fmt: skip
        add("--processes", type=int, default=self.processes,
            help=f"one after another, of each peer; default {self.processes}")  # fmt: skip
        batches = " ".join(map(str, self.batches)) or "the model's own"
        add("--batch", type=int, nargs="+", default=list(self.batches),
            help=f"default: {batches}")  # fmt: skip
        common_options(parser, self.work, rounds=self.rounds, seconds=self.seconds)
        return parser

    def run(self, arguments: argparse.Namespace, data: DataFile = lambda *_: None) -> int:
        """Measure, print, write. Exit status 0; 1 if a peer failed or none is there; 2: usage.

        data: gives the path of a file that the workers need, for the model, batch and peers.
        """
        try:
            chosen = peers.choose(arguments.peers, self.work)
            wanted = [find_model(name) for name in arguments.models]
            python = interpreters(arguments.python)
            require_positive(arguments)
            report.require_writable(arguments.json, arguments.png)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        here = machine.describe()
        threads = arguments.threads or here["cores"]
        turn = {"warmup": self.warmup, "seconds": arguments.seconds, "at_least": self.at_least}
        result: dict[str, Any] = {
            "benchmark": self.work,
            "title": self.title,
            "unit": self.unit,
            "per_second": self.per_second,
            "check": self.check,
            "check_first": self.check_first,
            "total": self.total,
            "machine": here,
            "threads": threads,
            "rounds": arguments.rounds * arguments.processes,
            "processes": arguments.processes,
            "turn": turn,
            "models": [],
        }
        print(report.heading(result), flush=True)
        for model, batch in [(m, b) for m in wanted for b in arguments.batch or [m.batch]]:
            measured = harness.measure(
                self.work,
                model,
                chosen,
                batch=batch,
                threads=threads,
                rounds=arguments.rounds,
                processes=arguments.processes,
                turn=turn,
                check_first=self.check_first,
                python=python,
                data=data(model, batch, chosen),
                tell=progress,
            )
            progress("")
            result["models"].append(measured)
            print("\n" + report.section(result, measured), flush=True)
        if arguments.json:
            report.write_json(result, arguments.json)
        if arguments.png and any(measured["peers"] for measured in result["models"]):
            report.draw(result, arguments.png)
        complete = all(m["peers"] and not m["failed"] for m in result["models"])
        return 0 if complete else 1


def common_options(
    parser: argparse.ArgumentParser, work: str, *, rounds: int, seconds: float
) -> None:
    """Who is measured, for how long, and where the figures go."""
    default = peers.measured_in(work)
    add = parser.add_argument
    add("--peers", nargs="+", default=default, metavar="PEER",
        help=f"names or families; default: {' '.join(default)}")  # fmt: skip
    add("--rounds", type=int, default=rounds,
        help=f"of each process; default {rounds}")  # fmt: skip
    add("--seconds", type=float, default=seconds,
        help=f"of a timed burst; default {seconds}")  # fmt: skip
    add("--threads", type=int, default=None, help="of each peer; default: all cores")
    add("--python", action="append", default=[], metavar="FAMILY=PATH",
        help="the interpreter of a family of peers, such as keras; also by the variable "
        "PYCONVOPT_BENCH_PYTHON_<FAMILY>; default: this one")  # fmt: skip
    add("--json", type=Path, help="write all raw figures to this file")
    add("--png", type=Path, help="draw a chart into this file")


COUNTS = ("rounds", "processes", "threads", "batch")


def require_positive(arguments: argparse.Namespace, names: Sequence[str] = COUNTS) -> None:
    """Errors: ValueError for a count of nothing."""
    for name in names:
        value = getattr(arguments, name, None)
        for count in value if isinstance(value, list) else [value]:
            if count is not None and count < 1:
                raise ValueError(f"--{name} must be at least 1, got {count}")


def find_model(name: str) -> models.Model:
    if name not in models.TABLE:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(models.TABLE)}")
    return models.TABLE[name]


def interpreters(options: list[str]) -> dict[str, str]:
    """The interpreter of each family that has its own: options first, then the environment.

    Errors: ValueError for an option that is no FAMILY=PATH.
    """
    families = {peer.family for peer in peers.TABLE.values()}
    variables = {family: f"PYCONVOPT_BENCH_PYTHON_{family.upper()}" for family in families}
    found = {family: os.environ[v] for family, v in variables.items() if os.environ.get(v)}
    for option in options:
        family, _, path = option.partition("=")
        if family not in families or not path:
            known = ", ".join(sorted(families))
            raise ValueError(f"--python takes FAMILY=PATH, got {option!r}; families: {known}")
        found[family] = path
    return found


def progress(line: str) -> None:
    """A line that the next one overwrites, on a terminal; nothing elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
