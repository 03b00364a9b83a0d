"""What a training step costs that several processes share: its terms measured one by one, and the step.

Each process has one thread and its part of the batch of the article's CNN. The step is modelled as

    step = a part's step in DistributedDataParallel, of the slowest process
         + a sum over the processes of as many bytes as there are gradients
         + a sum of the few numbers of loss and metrics

where no term is a guess. A part's step is measured in all processes at once, each in a group of its own:
so it holds what they take from each other (caches, memory, clock), what a small part loses, and what
DistributedDataParallel copies, and no message. The sums are gloo's, between the same processes, with
nothing else to do. What the model leaves out is that gloo's threads want the cores that compute.

The kinds of step take turns, round by round; each figure is the median of a burst. The last lines give the
messages' latency and the bandwidth that `pyconvopt.training.step_time` takes, as measured here.

python -m benchmarks.several_machines --batch 64 256 --json several_machines.json

Run nothing else beside it; it takes less than a minute a batch size.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from benchmarks import machine, report
from benchmarks.harness import Spread
from pyconvopt.data.loader import ArrayLoader, part_of
from pyconvopt.training import Trainer
from pyconvopt.training.processes import Processes
from pyconvopt.training.recipes import Recipe

WARM_UP = 5  # steps of each burst that are not counted
Burst = Callable[[], object]


class Terms(NamedTuple):
    """Seconds, each the median of one round's burst."""

    alone: float  # the whole batch in one process, one thread
    threads: float  # the same with as many threads as there are processes
    beside: float  # a part, while the other processes do theirs
    wrapped: float  # the same in DistributedDataParallel, without a message
    slowest: float  # the same, of each step the slowest process
    gradients: float  # the sum over the processes of the gradients' bytes
    numbers: float  # the sum of loss and metrics
    step: float  # what is modelled: the step that the processes share

    @property
    def model(self) -> float:
        """What the terms add up to.

        >>> Terms(9, 5, 4, 4.5, 5, 2, 1, 10).model
        8
        """
        return self.slowest + self.gradients + self.numbers


def trainer_for(x: Tensor, y: Tensor, processes: Processes) -> Trainer:
    """The article's CNN, ready for steps on such batches."""
    torch.manual_seed(0)
    trainer = Recipe.load("seed").model((28, 28, 1)).trainer()
    trainer.processes = processes
    trainer.prepare(ArrayLoader(x, y, batch_size=len(x)))
    trainer.model.train()
    return trainer


def wrapped(trainer: Trainer, group: Any) -> Trainer:
    """The same in DistributedDataParallel, in a group of this process alone."""
    trainer.processes.parallel = DistributedDataParallel(trainer.model, process_group=group)
    trainer.settle()
    return trainer


def burst(work: Burst, count: int) -> list[float]:
    """Seconds of each of so many calls."""
    for _ in range(WARM_UP):
        work()
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return times


def works(batch: int, processes: Processes, alone: Any) -> dict[str, Burst]:
    """What this process does in each kind of burst; `alone`: a group of this process."""
    x, y = torch.rand(batch, 28, 28, 1), torch.arange(batch) % 10
    own = part_of(batch, processes.rank, processes.count)
    part = x[own], y[own]

    def step(trainer: Trainer, *given: Tensor) -> Burst:
        return lambda: trainer.step(*given)

    gradients = torch.zeros(trainer_for(x, y, Processes()).model.count_params())
    few = [torch.ones(1), torch.ones(()), torch.ones(1)]  # samples, loss, accuracy
    whole = step(trainer_for(x, y, Processes()), x, y)
    return {
        "alone": whole,
        "threads": whole,
        "beside": step(trainer_for(*part, Processes()), *part),
        "wrapped": step(wrapped(trainer_for(*part, Processes()), alone), *part),
        "gradients": lambda: dist.all_reduce(gradients),
        "numbers": lambda: processes.sums(*few),
        "step": step(trainer_for(*part, processes), *part),
    }


def one_round(works: dict[str, Burst], processes: Processes, count: int) -> Terms | None:
    """A burst of each kind; the terms in the first process."""
    found: dict[str, list[list[float]]] = {}
    for name, work in works.items():
        of_one = name in ("alone", "threads")
        torch.set_num_threads(processes.count if name == "threads" else 1)
        dist.barrier()
        times = burst(work, count) if processes.is_first or not of_one else []
        found[name] = [each for each in processes.gather(times) if each]
    torch.set_num_threads(1)
    return terms_of(found) if processes.is_first else None


def terms_of(times: dict[str, list[list[float]]]) -> Terms:
    """The terms of a round, from the times of each process' calls.

    >>> few = {name: [[1.0, 2.0]] for name in Terms._fields if name != "slowest"}
    >>> terms_of({**few, "wrapped": [[1.0, 4.0], [3.0, 2.0]]})[3:5]
    (2.5, 3.5)
    """
    medians = {
        name: statistics.median(value for process in found for value in process)
        for name, found in times.items()
    }
    slowest = statistics.median(map(max, zip(*times["wrapped"], strict=True)))
    return Terms(**medians, slowest=slowest)


def measure(rank: int, count: int, meet: str, options: dict[str, Any], answer: Any) -> None:
    """One of the processes; the first answers with {batch: [terms of each round]}, and the bytes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=count)
    groups = [dist.new_group([each]) for each in range(count)]
    processes = Processes(rank, count)
    found: dict[int, list[Terms | None]] = {}
    for batch in options["batch"]:
        chosen = works(batch, processes, groups[rank])
        seconds = statistics.median(burst(chosen["step"], WARM_UP))
        bursts = processes.from_first(lambda: max(5, round(options["seconds"] / seconds)))  # noqa: B023
        found[batch] = [one_round(chosen, processes, bursts) for _ in range(options["rounds"])]
    if processes.is_first:
        answer.put(found)
    dist.barrier()
    dist.destroy_process_group()


def run(count: int, options: dict[str, Any]) -> dict[int, list[Terms]]:
    """The rounds of each batch size, measured in so many processes.

    Errors: RuntimeError if one of them dies.
    """
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        given = (count, f"{folder}/meet", options, answer)
        children = [context.Process(target=measure, args=(rank, *given)) for rank in range(count)]
        for child in children:
            child.start()
        while answer.empty():
            if any(child.exitcode for child in children):
                for child in children:
                    child.terminate()
                raise RuntimeError("a measuring process died; its error stands above")
            time.sleep(0.05)
        found = answer.get()
        for child in children:
            child.join()
    return found


def milliseconds(rounds: Sequence[float]) -> str:
    """The median over the rounds."""
    return f"{1e3 * statistics.median(rounds):.2f}"


def table(found: dict[int, list[Terms]], count: int) -> str:
    """A Markdown table, milliseconds: a line for each batch size."""
    head = [
        *("images a step", "1 process, 1 thread", f"1 process, {count} threads"),
        *("a part beside the others", "in DDP", "of the slowest", "gradients' sum", "numbers' sum"),
        *("model", "measured", "model / measured (from … to)"),
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---:|" * len(head)]
    for batch, rounds in found.items():
        *terms, step = (milliseconds(column) for column in zip(*rounds, strict=True))
        ratio = Spread.of([each.model / each.step for each in rounds])
        cells = [str(batch), *terms, milliseconds([each.model for each in rounds]), step]
        cells.append(f"{ratio.median:.2f} ({ratio.low:.2f} … {ratio.high:.2f})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def network(found: dict[int, list[Terms]], count: int, gradient_bytes: int) -> tuple[float, float]:
    """Latency in seconds and bandwidth in bytes a second: those of a ring that takes as long.

    A sum takes bytes · 2 (n - 1) / n / bandwidth + latency · 2 (n - 1); of few numbers the latter.
    """
    rounds = [each for of_batch in found.values() for each in of_batch]
    numbers = statistics.median(each.numbers for each in rounds)
    gradients = statistics.median(each.gradients for each in rounds)
    hops = 2 * (count - 1)
    sending = max(gradients - numbers, 1e-9)  # of few bytes the difference is within the noise
    return numbers / hops, gradient_bytes * hops / count / sending


def parser() -> argparse.ArgumentParser:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    chosen = argparse.ArgumentParser(
        "python -m benchmarks.several_machines",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    chosen.add_argument("--batch", type=int, nargs="+", default=[64, 256], help="images a step")
    chosen.add_argument("--processes", type=int, default=2, help="how many share it (2)")
    chosen.add_argument("--rounds", type=int, default=7, help="turns of each kind of step (7)")
    chosen.add_argument("--seconds", type=float, default=0.5, help="how long a turn is (0.5)")
    chosen.add_argument("--json", type=Path, help="also write every round")
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write. Exit status 0; 1 if a process died; 2: usage."""
    options = parser().parse_args(arguments)
    count = options.processes
    if count < 2 or options.rounds < 1 or min(options.batch) < count or options.seconds <= 0:
        print(
            "processes must be at least 2, rounds 1, a batch one image a process, seconds above 0",
            file=sys.stderr,
        )
        return 2
    described = machine.describe()
    try:
        found = run(count, vars(options) | {"json": None})
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    parameters = Recipe.load("seed").model((28, 28, 1)).count_params()
    latency, bandwidth = network(found, count, 4 * parameters)
    print(table(found, count))
    print(
        f"\nmilliseconds, {count} processes of one thread, median of {options.rounds} rounds; the "
        f"machine's load before: {described['load_before']}"
    )
    print(f"latency={latency:.2e}, bandwidth={bandwidth:.2e}  # of step_time, as measured here")
    if options.json:
        rounds = {batch: [each._asdict() for each in of] for batch, of in found.items()}
        result = {"machine": described, "processes": count, "rounds": rounds}
        result |= {"latency": latency, "bandwidth": bandwidth, "parameters": parameters}
        report.write_json(result, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
