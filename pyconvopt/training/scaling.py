"""What another machine is worth: a model of the time of a step that several machines share.

With n machines each computes its part of the batch. Two sums then go around a ring: the few numbers of
loss and metrics, and the gradients.

    t(n) = compute / n + bytes · 2 (n - 1) / n / bandwidth + 2 · latency · 2 (n - 1),    t(1) = compute

The first term falls, the second rises towards 2 · bytes / bandwidth, the third rises without end. So
beyond some n a further machine makes a step longer. The model takes computing as perfectly divided and
sends nothing while it computes; DistributedDataParallel does the latter, which hides part of the second
term. It leaves out that small parts are computed less efficiently, that a step waits for the slowest
machine, and DistributedDataParallel's own copies: `benchmarks.several_machines` measures these, and the
latency and bandwidth to put in.

Source: Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of
workstations".
"""

from __future__ import annotations

from collections.abc import Iterable

LATENCY = 50e-6  # seconds a message between two machines of one rack takes, with its system calls
SUMS = 2  # of a step: loss and metrics, gradients


def step_time(
    compute: float, gradient_bytes: float, machines: int, bandwidth: float, latency: float = LATENCY
) -> float:
    """Seconds of a training step on so many machines.

    Args: compute (seconds of the whole batch's step on one machine), gradient_bytes (4 a trained
    weight), machines, bandwidth (bytes a second of each machine's connection, each way), latency
    (50e-6 seconds a message).

    Errors: ValueError for a time, a size or a number that cannot be.

    >>> gigabit = 1e9 / 8
    >>> step_time(0.1, 4e6, 1, gigabit)
    0.1
    >>> round(step_time(0.1, 4e6, 2, gigabit), 4)  # 0.1 / 2 + 4e6 / 125e6 + 2 · 2 · 50e-6
    0.0822
    """
    if not isinstance(machines, int) or machines < 1:
        raise ValueError(f"machines must be a whole number >= 1, got {machines!r}")
    for name, value in (("compute", compute), ("bandwidth", bandwidth)):
        if not value > 0:
            raise ValueError(f"{name} must be more than 0, got {value}")
    for name, value in (("gradient_bytes", gradient_bytes), ("latency", latency)):
        if not value >= 0:
            raise ValueError(f"{name} must be 0 or more, got {value}")
    hops = 2 * (machines - 1)
    return compute / machines + gradient_bytes * hops / machines / bandwidth + SUMS * latency * hops


def best_machines(
    compute: float,
    gradient_bytes: float,
    bandwidth: float,
    latency: float = LATENCY,
    *,
    most: int = 1024,
    worth: float = 0.0,
) -> int:
    """With how many machines, up to `most`, adding more stops paying.

    `worth` (0): the share by which one more machine must at least shorten the step to be added.
    With 0 it is the number of machines with the shortest step.

    >>> best_machines(0.1, 4e6, 1e9 / 8), best_machines(0.001, 4e6, 1e9 / 8)
    (13, 1)
    >>> best_machines(0.1, 4e6, 1e9 / 8, worth=0.05)
    3
    """
    if not isinstance(most, int) or most < 1:
        raise ValueError(f"most must be a whole number >= 1, got {most!r}")

    def seconds(machines: int) -> float:
        return step_time(compute, gradient_bytes, machines, bandwidth, latency)

    best, numbers = 1, range(2, most + 1)
    if worth == 0:
        return min((1, *numbers), key=seconds)
    for machines in numbers:
        if seconds(machines) > (1 - worth) * seconds(best):
            break
        best = machines
    return best


def table(
    steps: Iterable[tuple[str, float, float]],
    bandwidths: Iterable[float],
    machines: Iterable[int] = (1, 2, 4, 8, 16),
) -> str:
    """A Markdown table of speed-ups: a row for each step (name, compute, gradient_bytes) and bandwidth.

    >>> print(table([('small', 0.01, 4e5)], [1e9 / 8], (1, 2, 4)))
    | step | Gbit/s | 1 | 2 | 4 | fastest with |
    |---|---:|---:|---:|---:|---:|
    | small | 1 | 1.00 | 1.19 | 1.27 | 4 |
    """
    counts = list(machines)
    head = ["step", "Gbit/s", *map(str, counts), "fastest with"]
    lines = [head]
    for name, compute, size in steps:
        for bandwidth in bandwidths:
            speed = [compute / step_time(compute, size, n, bandwidth) for n in counts]
            best = best_machines(compute, size, bandwidth)
            cells = [name, f"{bandwidth * 8 / 1e9:g}", *(f"{each:.2f}" for each in speed)]
            lines.append([*cells, str(best)])
    ruler = "|---|" + "---:|" * (len(head) - 1)
    rows = ["| " + " | ".join(cells) + " |" for cells in lines]
    return "\n".join([rows[0], ruler, *rows[1:]])
