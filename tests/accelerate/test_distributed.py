"""Two processes with half the batch each are one with the whole: DistributedDataParallel, SyncBatchNorm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import pyconvopt as pco

from ..nn.helpers import assert_same
from .distributed_steps import WAYS, converted_after, converted_before, plain, two_steps
from .networks import assert_same_network_step, pair_of

BOUND = 2e-3
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    if not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    folder = tmp_path_factory.mktemp("processes")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
    run = subprocess.run(
        [*torchrun, "-m", "tests.accelerate.distributed_steps", str(folder)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_are_one_with_the_joined_batch(way, results):
    model, x = plain(WAYS[way][0])
    gradients, statistics, evaluated = two_steps(model, x)
    size = max(g.square().mean().sqrt() for g in gradients)
    for of_process in results:
        ours, our_statistics, _ = of_process[way]
        for g, wanted in zip(ours, gradients, strict=True):
            rms = max(wanted.square().mean().sqrt(), size / 100)
            assert (g - wanted).abs().max() <= BOUND * rms
        for b, wanted in zip(our_statistics, statistics, strict=True):
            assert_same(b, wanted, 1e-4)
    assert_same(torch.cat([of_process[way][2] for of_process in results]), evaluated, BOUND)


@pytest.mark.parametrize("prepare", [converted_before, converted_after])
def test_converted_in_one_process_it_is_batch_norm(prepare):
    theirs, x = pair_of("resnet")
    ours = prepare(pair_of("resnet")[0])
    ours.load_state_dict(theirs.state_dict())
    assert type(ours.bn1) is pco.nn.SyncBatchNorm
    assert_same_network_step(ours, theirs, x, 1e-3)
    ours.eval(), theirs.eval()
    assert_same(ours(x), theirs(x), 1e-3)
    assert type(pco.restore(ours).bn1) is nn.SyncBatchNorm
