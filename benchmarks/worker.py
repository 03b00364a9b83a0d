"""The process of one peer: builds the work it is told, and sleeps between the turns it is given.

Started by `harness.Worker` with a JSON request as its argument, in the peer's own interpreter.
It answers each line of JSON on its standard input with one line on its standard output; whatever
the library prints goes to standard error. Only the standard library is imported before the peer.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.peers import Peer, Workload


def end_with_parent() -> None:
    """A stopped worker must not outlive a parent that was killed (Linux)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def peak_memory_mib() -> float:
    """The process's highest resident memory so far.

    VmHWM where there is a /proc: ru_maxrss starts at what the parent had when it forked.
    """
    try:
        with open("/proc/self/status") as status:
            line = next(line for line in status if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    except OSError:
        unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def burst(run: Callable[[], Any], warmup: int, seconds: float, at_least: int) -> list[float]:
    """Seconds of each run, after `warmup` untimed ones, until `seconds` have passed."""
    for _ in range(warmup):
        run()
    times: list[float] = []
    begin = time.perf_counter()
    end = begin
    while len(times) < at_least or end - begin < seconds:
        before = time.perf_counter()
        run()
        end = time.perf_counter()
        times.append(end - before)
    return times


def build(peer: Peer, module: ModuleType, request: dict[str, Any]) -> Workload:
    """What the request names, made by the peer.

    Errors: NotImplementedError with the reason why the peer does not do it.
    """
    from benchmarks import models
    from benchmarks.problems import Problem

    make = getattr(module, f"make_{request['work']}", None)
    if make is None:
        raise NotImplementedError(f"{peer.name} has no {request['work']}")
    options = dict(peer.options)
    if request.get("data"):
        options["data"] = request["data"]
    options |= request.get("options", {})
    if "problem" in request:
        options["pass_"] = request["pass"]
        return make(Problem.of(request["problem"]), request["threads"], **options)
    return make(models.TABLE[request["model"]], request["batch"], request["threads"], **options)


def serve(request: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> None:
    """Imports the library, then builds, checks and runs as it is told."""
    from benchmarks import peers

    peer = peers.TABLE[request["peer"]]
    try:
        module = peer.module()
    except ImportError as error:
        answer({"left_out": str(error)})
        return
    answer({})
    base = peak_memory_mib()
    work: Workload | None = None
    for line in sys.stdin:
        turn = json.loads(line)
        if turn["do"] == "build":
            work = None  # before the next one needs the memory
            try:
                work = build(peer, module, request | turn)
                answer({"version": work.version, "parameters": work.parameters})
            except (ImportError, NotImplementedError) as error:
                answer({"left_out": str(error)})
            continue
        assert work is not None, "asked to run before anything was built"
        if turn["do"] == "check":
            result: dict[str, Any] = {"check": work.check()}
        else:
            result = {"times": burst(work.run, turn["warmup"], turn["seconds"], turn["at_least"])}
        answer({**result, "peak_memory_mib": peak_memory_mib() - base})


def main() -> None:
    end_with_parent()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    serve(json.loads(sys.argv[1]), answer)
