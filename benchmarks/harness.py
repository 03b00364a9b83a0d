"""How time is measured: workers that take turns, and the statistics of paired rounds.

Figures drift between hours and machines, so no figure stands alone. Each peer lives in a process
of its own. In a round every peer has one turn, in the order of the table (A B C, A B C, …): a few
untimed runs, then a short timed burst. A waiting worker is stopped (SIGSTOP), so its thread pool
cannot spin on a core that is being measured, and every library keeps its own settings. After
some rounds all processes are started anew: where memory happens to lie makes one process of the
same program up to 20 % slower than the next, for all its life (seen with torch, the article's
model). A peer's figure for a round is the median of its burst; ratios are taken between figures
of the same round, then summed up over the rounds of all generations.
"""

from __future__ import annotations

import json
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.models import Model
from benchmarks.peers import Peer

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 900  # seconds for one answer: torch.compile and the first epochs take long

# Last on the path, so that an installed pyconvopt is found before the source folder.
BOOTSTRAP = (
    "import sys; sys.path = [p for p in sys.path if p] + [{root!r}]; "
    "from benchmarks.worker import main; main()"
)


class Spread(NamedTuple):
    """Median, smallest and largest of some figures."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        return cls(statistics.median(figures), min(figures), max(figures))


def round_figures(turns: Sequence[Sequence[float]]) -> list[float]:
    """One figure a round: the median of that turn's burst."""
    return [statistics.median(times) for times in turns]


def paired_ratio(theirs: Sequence[float], ours: Sequence[float]) -> Spread:
    """How many times as fast as they we are, round by round.

    Errors: ValueError for unequal numbers of rounds.

    >>> paired_ratio([4.0, 6.0, 9.0], [2.0, 2.0, 3.0])
    Spread(median=3.0, low=2.0, high=3.0)
    """
    return Spread.of([their / our for their, our in zip(theirs, ours, strict=True)])


class LeftOut(Exception):
    """The peer is not installed, or does not do this work."""


class WorkerFailed(Exception):
    """A worker ended or fell silent; the message holds the end of what it printed."""


class Worker:
    """A peer's process and what it reports. Between its turns it is stopped."""

    def __init__(self, peer: Peer, request: dict[str, Any], python: str) -> None:
        self.peer = peer
        self.request = request | {"peer": peer.name}
        self.python = python
        self.process: subprocess.Popen[bytes] | None = None
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by stop()
        self.report: dict[str, Any] = {
            "peer": peer.name,
            "ours": peer.ours,
            "tuned": peer.tuned,
            "turns": [],
        }

    def prepare(self) -> None:
        """Start the process and wait until its model is built."""
        threads = str(self.request["threads"])
        self.process = subprocess.Popen(
            [self.python, "-c", BOOTSTRAP.format(root=str(ROOT)), json.dumps(self.request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**os.environ, "OMP_NUM_THREADS": threads, **self.peer.environment},
            start_new_session=True,
        )
        built = self.answer(self.process)
        if "left_out" in built:
            raise LeftOut(built["left_out"])
        self.report |= built

    def check(self) -> None:
        self.report |= self.ask(do="check")

    def burst(self, turn: dict[str, Any]) -> None:
        answer = self.ask(do="burst", **turn)
        self.report["turns"].append(answer.pop("times"))
        self.report |= answer

    def ask(self, **turn: Any) -> dict[str, Any]:
        process = self.process
        assert process is not None and process.stdin is not None
        self.signal_all(signal.SIGCONT)
        process.stdin.write(json.dumps(turn).encode() + b"\n")
        process.stdin.flush()
        return self.answer(process)

    def answer(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        """The next answer; afterwards the worker sleeps."""
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
        line = process.stdout.readline() if ready else b""
        if not line:
            cause = f"ended ({process.wait()})" if ready else f"no answer in {PATIENCE} s"
            raise WorkerFailed(f"{cause}: {self.last_words()}")
        self.signal_all(signal.SIGSTOP)
        return json.loads(line)

    def signal_all(self, number: int) -> None:
        """To the worker and to the helper processes that its library started."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def last_words(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "it printed nothing"

    def stop(self) -> None:
        self.signal_all(signal.SIGKILL)
        self.errors.close()
        if self.process is not None:
            self.process.communicate()


def measure(
    work: str,
    model: Model,
    peers: Sequence[Peer],
    *,
    batch: int,
    threads: int,
    rounds: int,
    processes: int = 1,
    turn: dict[str, Any],
    check_first: bool,
    python: dict[str, str],
    data: str | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """All peers on one model: raw times of every turn, and what else each worker reports.

    Args: work (the `make_…` of the peers), rounds (of a generation), processes (generations),
    turn (warmup, seconds, at_least; see `worker.burst`), check_first (else after the last round),
    python (interpreters by family), data (a file for the worker), tell (takes lines of progress).

    A peer that is missing is left out, and one that fails is dropped; each with the reason.
    """
    request = {"work": work, "model": model.name, "batch": batch, "threads": threads, "data": data}
    left_out: dict[str, str] = {}
    failed: dict[str, str] = {}
    reports: dict[str, dict[str, Any]] = {}
    workers: list[Worker] = []

    def each(what: str, action: Callable[[Worker], None]) -> None:
        """One worker after the other; who cannot leaves."""
        for worker in list(workers):
            name = worker.peer.name
            tell(f"{model.name}: {what}: {name}")
            try:
                action(worker)
                continue
            except LeftOut as error:
                left_out[name] = str(error)
            except (WorkerFailed, OSError) as error:
                failed[name] = str(error)
            workers.remove(worker)
            worker.stop()

    for generation in range(processes):
        workers += [
            Worker(peer, request, python.get(peer.family, sys.executable))
            for peer in peers
            if peer.name not in left_out and peer.name not in failed
        ]
        label = f"process {generation + 1} of {processes}"
        try:
            each(f"{label}, preparing", Worker.prepare)
            if check_first:
                each(f"{label}, checking", Worker.check)
            for number in range(rounds):
                each(f"{label}, round {number + 1} of {rounds}", lambda worker: worker.burst(turn))
            if not check_first:
                each(f"{label}, checking", Worker.check)
        finally:
            for worker in workers:
                worker.stop()
        for worker in workers:
            before = reports.get(worker.peer.name, {}).get("turns", [])
            turns = before + worker.report["turns"]
            reports[worker.peer.name] = worker.report | {"turns": turns}
        workers.clear()
    return {
        "model": model.name,
        "input_shape": list(model.input_shape),
        "batch": batch,
        "random": model.random,
        "peers": [report for name, report in reports.items() if name not in failed],
        "left_out": left_out,
        "failed": failed,
    }
