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

    def __init__(self, peer: Peer, threads: int, python: str) -> None:
        self.peer = peer
        self.threads = threads
        self.python = python
        self.process: subprocess.Popen[bytes] | None = None
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by stop()
        self.report: dict[str, Any] = {}

    def start(self) -> None:
        """Start the process and wait until it has its library.

        Errors: LeftOut if that is not installed.
        """
        request = json.dumps({"peer": self.peer.name, "threads": self.threads})
        threads = str(self.threads)
        self.process = subprocess.Popen(
            [self.python, "-c", BOOTSTRAP.format(root=str(ROOT)), request],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**os.environ, "OMP_NUM_THREADS": threads, **self.peer.environment},
            start_new_session=True,
        )
        started = self.answer(self.process)
        if "left_out" in started:
            raise LeftOut(started["left_out"])

    def build(self, request: dict[str, Any]) -> None:
        """Have the work built; the report begins anew.

        Errors: LeftOut if the peer does not do it.
        """
        built = self.ask(do="build", **request)
        if "left_out" in built:
            raise LeftOut(built["left_out"])
        facts = {"peer": self.peer.name, "ours": self.peer.ours, "tuned": self.peer.tuned}
        self.report = {**facts, "turns": [], **built}

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


class Session:
    """A process of each peer, which build one work after another and take turns with each.

    A peer whose library is missing stays away for good; one that fails is started anew for the
    next work. Use it in a `with` statement: leaving it ends the processes.
    """

    def __init__(
        self,
        peers: Sequence[Peer],
        *,
        threads: int,
        python: dict[str, str],
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.peers = list(peers)
        self.threads = threads
        self.python = python
        self.tell = tell
        self.workers: dict[str, Worker] = {}
        self.absent: dict[str, str] = {}

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers.values():
            worker.stop()
        self.workers.clear()

    def worker(self, peer: Peer) -> Worker:
        """The peer's process, started if it has none."""
        if peer.name in self.absent:
            raise LeftOut(self.absent[peer.name])
        if peer.name not in self.workers:
            python = self.python.get(peer.family, sys.executable)
            self.workers[peer.name] = Worker(peer, self.threads, python)
            try:
                self.workers[peer.name].start()
            except LeftOut as error:
                self.absent[peer.name] = str(error)
                raise
        return self.workers[peer.name]

    def measure(
        self,
        request: dict[str, Any],
        name: str,
        *,
        rounds: int,
        turn: dict[str, Any],
        check_first: bool,
    ) -> dict[str, Any]:
        """All peers on one work: raw times of every turn, and what else each worker reports.

        Args: request (what is to be built; see `worker.build`), name (of it, for the lines of
        progress), rounds, turn (warmup, seconds, at_least; see `worker.burst`), check_first (else
        after the last round).

        A peer that does not do it is left out, and one that fails is dropped; each with the reason.
        """
        left_out: dict[str, str] = {}
        failed: dict[str, str] = {}
        present = list(self.peers)

        def each(what: str, action: Callable[[Worker], None]) -> None:
            """One worker after the other; who cannot leaves."""
            for peer in list(present):
                self.tell(f"{name}: {what}: {peer.name}")
                try:
                    action(self.worker(peer))
                    continue
                except LeftOut as error:
                    left_out[peer.name] = str(error)
                except (WorkerFailed, OSError) as error:
                    failed[peer.name] = str(error)
                present.remove(peer)
                if peer.name in failed or peer.name in self.absent:
                    gone = self.workers.pop(peer.name, None)
                    if gone is not None:
                        gone.stop()

        each("preparing", lambda worker: worker.build(request))
        if check_first:
            each("checking", Worker.check)
        for number in range(rounds):
            each(f"round {number + 1} of {rounds}", lambda worker: worker.burst(turn))
        if not check_first:
            each("checking", Worker.check)
        reports = [self.workers[peer.name].report for peer in present]
        return {"peers": reports, "left_out": left_out, "failed": failed}


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
    """All peers on one model, in fresh processes: the `Session`'s report, and the model's facts.

    Args: work (the `make_…` of the peers), rounds (of a generation), processes (generations),
    python (interpreters by family), data (a file for the worker), tell (takes lines of progress).
    """
    request = {"work": work, "model": model.name, "batch": batch, "data": data}
    left_out: dict[str, str] = {}
    failed: dict[str, str] = {}
    reports: dict[str, dict[str, Any]] = {}
    for generation in range(processes):
        able = [peer for peer in peers if peer.name not in left_out | failed]
        with Session(able, threads=threads, python=python, tell=tell) as session:
            label = f"{model.name}, batch {batch}, process {generation + 1} of {processes}"
            part = session.measure(
                request, label, rounds=rounds, turn=turn, check_first=check_first
            )
        left_out |= part["left_out"]
        failed |= part["failed"]
        for report in part["peers"]:
            before = reports.get(report["peer"], {}).get("turns", [])
            reports[report["peer"]] = report | {"turns": before + report["turns"]}
    return {
        "model": model.name,
        "input_shape": list(model.input_shape),
        "batch": batch,
        "random": model.random and work != "inference",
        "peers": [report for name, report in reports.items() if name not in failed],
        "left_out": left_out,
        "failed": failed,
    }
