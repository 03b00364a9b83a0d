"""Trials: of each pass of a convolution, the kernel that was the faster one where its shape was first met.

A table says which kernel a pass runs on (`pyconvopt.plans`), by measurements on other machines. With
``settings(trial=True)`` this library's kernel and torch's are run in turns on maps of the very shape,
with the threads and the instruction set of the moment, and the faster one is kept for the process. The
table's choice stays where the other is less than 3 % faster.

The first call with a shape takes longer: some 10 ms a pass, or two runs of each kernel where these take
more, and the memory of one more such call. Only what a call needs is tried: the gradients where it is to
be differentiated. Each process, a DataLoader's worker too, tries for itself. Nothing is tried while a
compiler, tracer or other mode of torch looks on, nor on a GPU: there the table chooses.

**Kernels differ in their last bits, and which is faster may change from run to run and with the number of
threads**, so two runs with trials may differ, which they never do while the choice is the same. `save`
and `load` keep the choices:

>>> import tempfile, torch, pyconvopt as pco
>>> layer, x = pco.nn.Conv2d(16, 16, 3), torch.zeros(1, 16, 32, 32)
>>> with tempfile.TemporaryDirectory() as folder, pco.settings(trial=True):
...     first = pco.explain(layer, x).rows
...     pco.trials.save(f"{folder}/trials.json")
...     pco.trials.forget()
...     pco.trials.load(f"{folder}/trials.json")
...     [row["reason"][:20] for row in first], pco.explain(layer, x).rows == first
(['trial: winograd_f4x3', 'trial: winograd_f4x3', 'trial: winograd_f4x3'], True)
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _C, explanation, plans, settings
from .autograd import conv
from .files import write_whole
from .plans import REFERENCE, TORCH, ConvPlan

BUDGET = 0.008
"""Seconds for one pass, after a first run of each candidate."""
MOST_TURNS = 20
MARGIN = 0.97
"""What is not the table's choice has to take less than this part of its time."""

# What is timed together, and the passes that it decides. A pooled pass is tried against the plain one
# and a pool, so it comes after; of the gradients of a pooled map both are joined to the pool, or none.
TRIED = {
    "forward": ("forward",),
    "data_gradient": ("data_gradient",),
    "weight_gradient": ("weight_gradient",),
    "forward_pool": ("forward_pool",),
    "gradients_pool": ("data_gradient_pool", "weight_gradient_pool"),
}


class Problem(NamedTuple):
    """What a result holds for."""

    passes: str
    """A name of `TRIED`."""
    kernel: str
    """This library's; two of them joined by ``+``."""
    isa: str
    threads: int
    input: tuple[int, ...]
    weight: tuple[int, ...]
    hyper: tuple[int, ...]
    """Stride, padding and dilation (height, width each), groups."""


class Result(NamedTuple):
    """Seconds that this library's kernel and the other took, and whether this library's was chosen."""

    own: float
    other: float
    chosen: bool


_results: dict[Problem, Result] = {}
_lock = threading.Lock()


def _new_lock() -> None:
    global _lock
    _lock = threading.Lock()


# A thread that was measuring when a DataLoader forked its workers does not live on in them.
os.register_at_fork(after_in_child=_new_lock)


def situation() -> tuple[int, int]:
    """What choices rest on beside the shapes: while it is the same, kept ones hold."""
    return settings.generation(), torch.get_num_threads() if settings.trial() else 0


def conv_plan(
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    *tensors: Tensor,
    gradient: bool = False,
    pool: bool = False,
) -> ConvPlan | None:
    """`plans.conv_plan` for the CPU, by trial where `settings` ask for it.

    Args:
        input_shape, weight_shape, stride, padding, dilation, groups: as there.
        *tensors: those of the call; one of a class that watches what is done with it forbids trials.
        gradient: whether gradients will be wanted. `explain` always wants them.
        pool: whether a 2×2 max-pool follows.
    """
    problem = (tuple(input_shape), tuple(weight_shape), stride, padding, dilation, groups)
    if not settings.trial() or _watched(tensors):
        return plans.conv_plan(*problem)
    return _conv_plan(problem, gradient or explanation.listening(), pool, situation())


def _watched(tensors: Sequence[Tensor]) -> bool:
    """Whether a mode of torch (fake tensors, counters of operations) or a class of tensors looks on."""
    plain = Tensor.__torch_dispatch__
    return torch._C._len_torch_dispatch_stack() > 0 or any(
        type(t).__torch_dispatch__ is not plain for t in tensors
    )


@lru_cache(maxsize=4096)
def _conv_plan(
    arguments: Any, gradient: bool, pool: bool, situation: tuple[int, int]
) -> ConvPlan | None:
    """The plan with the winners of what is needed."""
    plan = plans.conv_plan(*arguments)
    input_shape, weight_shape, stride, *_ = arguments
    shapes = input_shape, weight_shape
    if plan is None or plans.torch_overruns(weight_shape, stride):
        return plan
    pool = pool and min(plan.out_size) >= 2
    needed = {
        "forward": True,
        "data_gradient": gradient,
        "weight_gradient": gradient,
        "forward_pool": pool,
        "gradients_pool": gradient and pool,
    }
    for name in (name for name in TRIED if needed[name]):
        kernel_of = {each: plans.own_kernel(each, *shapes, plan.hyper)[0] for each in TRIED[name]}
        own: dict[str, Any] = {k: v for k, v in kernel_of.items() if v != REFERENCE}
        last = TRIED[name][-1]
        if last not in own:  # the weight's gradient alone may be joined to the pool, not the data's
            continue
        kernels = "+".join(own.values())
        problem = Problem(name, kernels, _C.isa(), situation[1], *shapes, plan.hyper)
        by_table = getattr(plan, last) != TORCH
        none: dict[str, Any] = dict.fromkeys(own, TORCH)
        with_own, without = plan._replace(**own), plan._replace(**none)
        result = _result(problem, by_table, with_own, without)
        other = "apart" if name.endswith("_pool") else TORCH
        reason = f"trial: {kernels} {1e3 * result.own:.3g} ms, {other} {1e3 * result.other:.3g} ms"
        reasons = (plan.why | dict.fromkeys(own, reason)).values()
        plan = (with_own if result.chosen else without)._replace(reasons=tuple(reasons))
    return plan


def _result(problem: Problem, by_table: bool, own: ConvPlan, other: ConvPlan) -> Result:
    """What is remembered, or else measured, by one thread at a time."""
    with _lock:
        if problem not in _results:
            with torch.no_grad(), torch._C.DisableTorchFunction():
                run = _work(problem, own)
                ours, theirs = _seconds([partial(run, own), partial(run, other)])
            chosen = theirs >= MARGIN * ours if by_table else ours < MARGIN * theirs
            _results[problem] = Result(ours, theirs, chosen)
        return _results[problem]


def _work(problem: Problem, own: ConvPlan) -> Callable[[ConvPlan], Any]:
    """A function that runs what is tried by a plan, on maps of its own, without bias and activation."""
    height, width = own.out_size
    batch, filters = problem.input[0], problem.weight[0]
    x, weight = _ones(*problem.input), _ones(*problem.weight)
    if problem.passes == "forward":
        return lambda plan: conv.forward(x, weight, None, plan, False)
    if problem.passes == "forward_pool":
        return lambda plan: conv.forward_pool(x, weight, None, plan, False)
    if problem.passes == "gradients_pool":
        pooled = _ones(batch, filters, height // 2, width // 2)
        places = pooled.to(torch.uint8)
        data = own.data_gradient_pool != TORCH
        return lambda plan: conv.pool_gradients(plan, x, weight, pooled, places, data, True, False)
    data = problem.passes == "data_gradient"
    gradient = _ones(batch, filters, height, width)
    return lambda plan: conv.gradients(plan, x, weight, gradient, data, not data)


def _ones(*shape: int) -> Tensor:
    """A map in channels_last; not of zeros, for which the system has one page that stays cached."""
    empty = torch.empty(shape, dtype=torch.float32, device="cpu", memory_format=torch.channels_last)
    return empty.fill_(1)


def _seconds(candidates: Sequence[Callable[[], Any]]) -> list[float]:
    """The least time of each, run in turns."""
    least = [math.inf] * len(candidates)
    end = math.inf
    for turn in range(MOST_TURNS):
        for number, run in enumerate(candidates):
            start = perf_counter()
            run()
            least[number] = min(least[number], perf_counter() - start)
        if turn == 0:
            end = perf_counter() + BUDGET
        elif perf_counter() > end:
            break
    return least


def forget() -> None:
    """Forget all results: each shape is tried anew."""
    with _lock:
        _results.clear()
    settings.renew()


def save(path: str | Path) -> None:
    """Write all results of this process, and what was loaded, to a JSON file, whole or not at all.

    Each holds for its shape, this library's kernel, the instruction set and the number of threads.

    Raises:
        OSError: where the file cannot be written.
    """
    with _lock:
        known = sorted(_results.items())
    lines = [json.dumps(problem._asdict() | result._asdict()) for problem, result in known]
    write_whole(path, '{"pyconvopt_trials": 1, "results": [\n' + ",\n".join(lines) + "\n]}\n")


def load(path: str | Path) -> None:
    """Take the results of a file that `save` wrote: what they hold for is not tried any more.

    They take the place of this process' own. What the file does not hold is tried as ever.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for a file of another kind or with an entry that is not as written by `save`;
            nothing is taken of it.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("pyconvopt_trials") != 1:
            raise ValueError('expected a JSON object with "pyconvopt_trials": 1')
        read = dict(_entry(number, item) for number, item in enumerate(content["results"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no results of trials: {error}") from None
    with _lock:
        _results.update(read)
    settings.renew()


def _entry(number: int, item: Any) -> tuple[Problem, Result]:
    """One result of a file."""
    names = {*Problem._fields, *Result._fields}
    if not isinstance(item, dict) or set(item) != names:
        raise ValueError(f"entry {number} has not the keys {', '.join(sorted(names))}")
    lists = {name: item[name] for name in ("input", "weight", "hyper")}
    if not (
        item["passes"] in TRIED
        and all(isinstance(item[name], str) for name in ("kernel", "isa"))
        and all(isinstance(each, list) for each in lists.values())
        and [len(each) for each in lists.values()] == [4, 4, 7]
        and all(type(n) is int for each in lists.values() for n in (*each, item["threads"]))
        and all(isinstance(item[name], float) for name in ("own", "other"))
        and isinstance(item["chosen"], bool)
    ):
        raise ValueError(f"entry {number} is not as saved: {json.dumps(item)}")
    item = item | {name: tuple(each) for name, each in lists.items()}
    return (
        Problem(*map(item.__getitem__, Problem._fields)),
        Result(*map(item.__getitem__, Result._fields)),
    )
