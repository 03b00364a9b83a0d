"""How fast this machine trains: a step with pyconvopt and with torch, side by side.

Each peer is a process of its own, stopped while another has its turn, so that no waiting thread pool
takes a core. In a round every peer runs a few steps untimed, then times steps for a moment; its figure
is their median. Ratios are taken within a round, so that a machine that grows slower slows all alike.

All peers train the same weights on the same batch, and must agree on its loss before the first step.
"""

from __future__ import annotations

import ctypes
import json
import math
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from pyconvopt import _C, models, optimizers, registry
from pyconvopt.accelerate import accelerate, restore

WARM_UP = 3  # steps of a turn that are not timed
LEAST = 3  # steps that are, however long they take
OURS = "pyconvopt"


@dataclass(frozen=True)
class Problem:
    """What is trained: a model by name, images a step, their height and width."""

    model: str
    batch_size: int
    image_size: int

    @classmethod
    def of(
        cls, model: str, batch_size: int | None = None, image_size: int | None = None
    ) -> Problem:
        """The problem, with the usual sizes where none are given.

        Errors: ValueError for an unknown model.

        >>> Problem.of('resnet18', image_size=32)
        Problem(model='resnet18', batch_size=8, image_size=32)
        """
        if model == "article":
            return cls(model, batch_size or 64, image_size or 28)
        registry.find("model", {"article": None, **models.ARCHITECTURES}, model)
        return cls(model, batch_size or 8, image_size or 224)

    def network(self) -> nn.Module:
        """The network, of torch's modules."""
        torch.manual_seed(0)
        if self.model != "article":
            return restore(models.build(self.model, in_channels=3, num_classes=10))
        return nn.Sequential(
            *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten()),
            *(nn.LazyLinear(64), nn.ReLU(), nn.Linear(64, 10)),
        )

    def images(self) -> torch.Tensor:
        """A batch of noise."""
        channels = 1 if self.model == "article" else 3
        shape = (self.batch_size, channels, self.image_size, self.image_size)
        return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def plain(network: nn.Module, x: torch.Tensor) -> tuple[nn.Module, torch.Tensor, Any]:
    """torch as it comes."""
    return network, x, torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)


def channels_last(network: nn.Module, x: torch.Tensor) -> tuple[nn.Module, torch.Tensor, Any]:
    """torch in the memory format that its own guide recommends."""
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return plain(network, x.contiguous(memory_format=torch.channels_last))


def ours(network: nn.Module, x: torch.Tensor) -> tuple[nn.Module, torch.Tensor, Any]:
    """This library."""
    _, x, _ = channels_last(network, x)
    network = accelerate(network)
    return network, x, optimizers.SGD(network.parameters(), 0.01, momentum=0.9)


PEERS: dict[str, Callable[..., tuple[nn.Module, torch.Tensor, Any]]] = {
    OURS: ours,
    "torch": plain,
    "torch, channels_last": channels_last,
}


@dataclass(frozen=True)
class Result:
    """Seconds of a step, by peer and round."""

    problem: Problem
    seconds: dict[str, list[float]]

    def ratios(self, peer: str) -> list[float]:
        """How many times as fast as a peer pyconvopt is, round by round."""
        pairs = zip(self.seconds[peer], self.seconds[OURS], strict=True)
        return [theirs / own for theirs, own in pairs]

    def table(self) -> dict[str, Any]:
        """Everything, for programs."""
        return {
            **asdict(self.problem),
            "threads": torch.get_num_threads(),
            "instruction_set": _C.isa(),
            "seconds": self.seconds,
            "ratios": {peer: self.ratios(peer) for peer in self.seconds if peer != OURS},
        }

    def markdown(self) -> str:
        """A table: medians with the smallest and the largest round."""
        problem, count = self.problem, torch.get_num_threads()
        lines = [
            "| | ms a step | pyconvopt is … times as fast |",
            "| --- | ---: | ---: |",
        ]
        for peer, figures in self.seconds.items():
            ratio = "" if peer == OURS else spread(self.ratios(peer))
            lines.append(f"| {peer} | {spread([1e3 * each for each in figures])} | {ratio} |")
        size = f"{problem.batch_size} images of {problem.image_size}×{problem.image_size}"
        return "\n".join(
            [
                *lines,
                "",
                f"A training step of {problem.model}, {size}, {count} threads, {_C.isa()}: median, "
                f"least and most of {len(self.seconds[OURS])} rounds.",
            ]
        )


def spread(figures: list[float]) -> str:
    """Median, smallest and largest.

    >>> spread([2.0, 1.0, 4.0])
    '2.00 (1.00–4.00)'
    """
    return f"{statistics.median(figures):.2f} ({min(figures):.2f}–{max(figures):.2f})"


def measure(problem: Problem, rounds: int = 7, seconds: float = 0.5) -> Result:
    """Time all peers in turns.

    Errors: RuntimeError if one fails, or if they do not agree on the first loss.
    """
    workers: dict[str, Worker] = {}
    try:
        for peer in PEERS:
            workers[peer] = Worker(peer, problem)
        losses = {peer: worker.answer() for peer, worker in workers.items()}
        if any(not math.isclose(each, losses["torch"], rel_tol=1e-3) for each in losses.values()):
            raise RuntimeError(f"the peers do not agree on the first loss: {losses}")
        turns = [
            {peer: each.turn(seconds) for peer, each in workers.items()} for _ in range(rounds)
        ]
    finally:
        for worker in workers.values():
            worker.end()
    return Result(problem, {peer: [turn[peer] for turn in turns] for peer in PEERS})


class Worker:
    """A peer's process; it runs only while it is asked something."""

    def __init__(self, peer: str, problem: Problem) -> None:
        self.peer = peer
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pyconvopt.benchmark", peer, json.dumps(asdict(problem))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def answer(self) -> float:
        """The next answer; afterwards the process is stopped."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            assert self.process.stderr is not None
            said = self.process.stderr.read().strip().splitlines() or ["it said nothing"]
            raise RuntimeError(f"{self.peer} failed: {said[-1]}")
        self.process.send_signal(signal.SIGSTOP)
        return float(line)

    def turn(self, seconds: float) -> float:
        """The median time of a step, over so many seconds."""
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return self.answer()

    def end(self) -> None:
        """End the process, stopped or not."""
        self.process.kill()
        self.process.communicate()


def end_with_parent() -> None:
    """A stopped process must not outlive a parent that was killed (Linux)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def serve(peer: str, problem: Problem) -> None:
    """What a peer's process does: builds, then answers each line with a figure."""
    end_with_parent()
    network, x = problem.network(), problem.images()
    with torch.no_grad():
        network.eval()(x[:1])  # lazy layers take their shape
    network, x, optimizer = PEERS[peer](network.train(), x)
    with torch.no_grad():
        outputs = network.eval()(x)
    labels = torch.arange(len(x)) % 10
    labels = labels.reshape(-1, *(1 for _ in outputs.shape[2:])).expand_as(outputs[:, 0])
    loss_before = nn.functional.cross_entropy(outputs, labels)
    network.train()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(network(x), labels).backward()
        optimizer.step()

    print(float(loss_before), flush=True)
    for line in sys.stdin:
        for _ in range(WARM_UP):
            step()
        times: list[float] = []
        while len(times) < LEAST or sum(times) < float(line):
            before = time.perf_counter()
            step()
            times.append(time.perf_counter() - before)
        print(statistics.median(times), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], Problem(**json.loads(sys.argv[2])))
