"""Several processes end with what one comes to with the joined batch."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

pytest.importorskip("safetensors", reason="checkpoints are safetensors files")
if not torch.distributed.is_gloo_available():
    pytest.skip("torch without gloo", allow_module_level=True)

from safetensors.torch import load_file

from tests.tiny_data import write_tiny_set
from tests.training import joined

ROOT = Path(__file__).resolve().parents[2]


def names() -> list[str]:
    """The runs that the installed packages allow."""
    return [name for name in joined.RUNS if name != "torchmetrics" or find_spec("torchmetrics")]


@pytest.fixture(scope="module")
def of_two(tmp_path_factory) -> Path:
    """The results of every run in two processes."""
    folder = tmp_path_factory.mktemp("two")
    assert joined.together(2, joined.one_process, str(folder), names()) == [0, 0]
    return folder


@pytest.mark.parametrize("name", names())
def test_two_processes_are_one(of_two, name):
    first, second = (load_file(of_two / f"{name}-{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)  # in both the same bits
    torch.set_num_threads(1)
    alone = joined.result(name)
    assert alone.keys() == first.keys()
    for key, wanted in alone.items():
        torch.testing.assert_close(first[key], wanted, rtol=1e-4, atol=2e-6, msg=key)


def launched(
    count: int, *arguments: str, cwd: Path = ROOT, restarts: int = 0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """What torchrun makes of a program in so many processes."""
    options = ["--nproc-per-node", str(count), "--max-restarts", str(restarts)]
    variables |= {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", *options, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_killed_process(tmp_path):
    """All are started anew, go on from the checkpoint, and end with the same bits."""
    places = [str(tmp_path / name) for name in ("killed", "whole")]
    run = launched(3, "-m", "tests.training.joined", *places, restarts=1)
    assert run.returncode == 0, run.stderr
    assert "exitcode: -9" in run.stderr
    whole, *killed = (
        load_file(f"{tmp_path}/{name}.safetensors")
        for name in ("whole/0", "killed/0", "killed/1", "killed/2")
    )
    for key, wanted in whole.items():
        assert all(torch.equal(each[key], wanted) for each in killed), key


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def test_the_command_line(tmp_path):
    """One run folder, one accuracy printed: that of one process."""
    for package in ("typer", "rich", "matplotlib"):
        pytest.importorskip(package, reason="the command line needs the extra 'cli'")
    write_tiny_set(tmp_path, 64, 32)
    data = {"PYCONVOPT_DATA": str(tmp_path)}
    changes = ["--recipe", "fast", "--epochs", "2", "--batch-size", "24"]
    command = ["-m", "pyconvopt.cli", "train", *changes, "--out"]
    run = launched(2, *command, "two", cwd=tmp_path, **data)
    assert run.returncode == 0, run.stderr
    alone = launched(1, *command, "one", cwd=tmp_path, **data)
    assert run.stdout.count("test accuracy") == run.stdout.count("epoch 2/2") == 1
    assert last_line(run.stdout) == last_line(alone.stdout)
    assert sorted(os.listdir(tmp_path / "two")) == sorted(os.listdir(tmp_path / "one"))
    weights = [load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two")]
    for key, wanted in weights[0].items():
        # As a whole: rounding decides on which side of ReLU's corner a value or two lie.
        assert (weights[1][key] - wanted).norm() <= 1e-3 * wanted.norm(), key
