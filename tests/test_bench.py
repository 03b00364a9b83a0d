"""`pyconvopt bench`: peers that agree, take turns, and the ratios."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pyconvopt import benchmark


def test_ratios_are_taken_round_by_round():
    seconds = {"pyconvopt": [0.001, 0.002, 0.004], "torch": [0.002, 0.006, 0.004]}
    result = benchmark.Result(benchmark.Problem.of("article"), seconds)
    assert result.ratios("torch") == [2.0, 3.0, 1.0]
    assert result.markdown().splitlines()[2:4] == [
        "| pyconvopt | 2.00 (1.00–4.00) |  |",
        "| torch | 4.00 (2.00–6.00) | 2.00 (1.00–3.00) |",
    ]
    assert result.table()["ratios"] == {"torch": [2.0, 3.0, 1.0]}


def test_problems():
    assert benchmark.Problem.of("article", 8).batch_size == 8
    network = benchmark.Problem.of("resnet_cifar", image_size=32).network()
    assert all(type(each).__module__.startswith("torch.") for each in [network.conv1, network.bn1])
    with pytest.raises(ValueError, match="unknown model 'resnt18': did you mean 'resnet18'"):
        benchmark.Problem.of("resnt18")


def test_a_peer_that_fails_says_why():
    worker = benchmark.Worker("torch", benchmark.Problem("article", 1, 5))  # too small for it
    try:
        with pytest.raises(RuntimeError, match="torch failed: "):
            worker.answer()
    finally:
        worker.end()


def test_a_busy_machine_is_told(monkeypatch, capsys):
    pytest.importorskip("typer", reason="the command line needs the extra 'cli'")
    from pyconvopt import cli, machine

    monkeypatch.setattr(machine, "load", lambda: 1000.0)
    result = benchmark.Result(benchmark.Problem.of("article"), {"pyconvopt": [1.0]})
    monkeypatch.setattr(benchmark, "measure", lambda *arguments: result)
    with pytest.warns(UserWarning, match="other programs are busy .* the times mean little"):
        assert cli.run(("bench",)) == 0


@pytest.mark.filterwarnings("ignore:other programs are busy")
def test_the_command(capsys):
    pytest.importorskip("typer", reason="the command line needs the extra 'cli'")
    from pyconvopt import cli

    arguments = ("--batch-size", "4", "--rounds", "2", "--seconds", "0.01", "--json")
    assert cli.run(("bench", *arguments)) == 0
    read = json.loads(capsys.readouterr().out)
    assert read["model"] == "article" and read["threads"] == torch.get_num_threads()
    assert set(read["seconds"]) == set(benchmark.PEERS)
    for figures in [*read["seconds"].values(), *read["ratios"].values()]:
        assert len(figures) == 2 and min(figures) > 0


@pytest.mark.skipif(sys.platform != "linux", reason="processes end with their parent on Linux")
def test_no_process_is_left_behind():
    """A stopped worker ends with the program that stopped it, however that ends."""
    program = (
        "import os; from pyconvopt import benchmark; "
        "worker = benchmark.Worker('torch', benchmark.Problem('article', 1, 28)); "
        "worker.answer(); print(worker.process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    parent = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert parent.returncode == -9, parent.stderr
    status = Path(f"/proc/{int(parent.stdout)}/status")
    for _ in range(100):
        if not status.exists() or "State:\tZ" in status.read_text():
            return
        time.sleep(0.1)
    os.kill(int(parent.stdout), 9)
    pytest.fail("the worker is still there")
