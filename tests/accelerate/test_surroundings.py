"""Accelerated models inside torch.compile, torch.export and DistributedDataParallel."""

from __future__ import annotations

import copy
import gc
import sys
import threading

import pytest
import torch
import torch.multiprocessing as processes
from torch.nn.parallel import DistributedDataParallel

import pyconvopt as pco

from ..nn.helpers import assert_same
from .networks import assert_same_network_step, pair_of

BOUND = 1e-3


def test_compiled_by_another_backend():
    theirs, x = pair_of("resnet")
    ours = pco.accelerate(copy.deepcopy(theirs))
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    assert_same_network_step(compiled, theirs, x, BOUND)
    assert_same_network_step(ours, theirs, x, 10)  # the uncompiled one still runs
    torch._dynamo.reset()


@pytest.mark.parametrize("restored", [True, False])
def test_export(restored):
    theirs, x = pair_of("resnet")
    ours = pco.accelerate(copy.deepcopy(theirs)).eval()
    theirs.eval()
    ours(x)
    program = torch.export.export(pco.restore(ours) if restored else ours, (x,))
    assert_same(program.module()(x), theirs(x), BOUND)
    assert not any("pyconvopt" in str(node.target) for node in program.graph.nodes)


def test_first_calls_in_several_threads():
    theirs, x = pair_of("resnet")
    theirs.eval()
    models = [pco.accelerate(copy.deepcopy(theirs)) for _ in range(4)]
    results = [None] * len(models)

    def run(i):
        with torch.no_grad():
            results[i] = models[i](x)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(models))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    untouched = torch.nn.Module.__call__, torch.nn.Module.__getattr__
    assert [f.__module__ for f in untouched] == ["torch.nn.modules.module"] * 2
    assert not any(hasattr(f, "__wrapped__") for f in untouched)
    for result in results:
        assert_same(result, theirs(x), BOUND)


def test_evaluation_in_several_threads():
    """The threads fold the batch norm of one model at once."""
    layers = torch.nn.Conv2d(16, 16, 3), torch.nn.BatchNorm2d(16)
    model, x = torch.nn.Sequential(*layers).eval(), torch.randn(4, 16, 24, 24)
    fast, failed = pco.accelerate(model), []
    with torch.no_grad():
        fast(x)
        wanted = model(x)

    def run(start):
        try:
            with torch.no_grad():
                start.wait()
                assert_same(fast(x), wanted, BOUND)
        except Exception as error:
            failed.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(40):
            fast._pyconvopt_plans.plans.clear()
            fast._pyconvopt_plans.current = None
            with torch.no_grad():
                fast._pyconvopt_plans.find(fast, 1)  # with nothing folded yet
            start = threading.Barrier(4)
            threads = [threading.Thread(target=run, args=(start,)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failed


def train_a_share(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    torch.manual_seed(0)
    model, x = pair_of("article")
    model = DistributedDataParallel(pco.accelerate(model))
    for _ in range(2):
        model.zero_grad()
        model(x[2 * rank : 2 * rank + 2]).square().mean().backward()
    torch.save([p.grad for p in model.parameters()], f"{folder}/{rank}.pt")
    del model
    gc.collect()  # DistributedDataParallel is part of a cycle, and holds the group
    torch.distributed.destroy_process_group()


def test_distributed_data_parallel(tmp_path):
    processes.spawn(train_a_share, (str(tmp_path),), nprocs=2)
    torch.manual_seed(0)
    model, x = pair_of("article")
    model(x).square().mean().backward()
    for rank in range(2):
        for grad, p in zip(torch.load(tmp_path / f"{rank}.pt"), model.parameters(), strict=True):
            assert_same(grad, p.grad, BOUND)
