"""Every command under `torchrun`: one result, printed and written by one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("typer", reason="the command line needs the extra 'cli'")
pytest.importorskip("rich", reason="the command line needs the extra 'cli'")
pytest.importorskip("matplotlib", reason="the command line needs the extra 'cli'")
pytest.importorskip("safetensors", reason="the command line needs the extra 'cli'")
if not torch.distributed.is_gloo_available():
    pytest.skip("torch without gloo", allow_module_level=True)

from pyconvopt import cli
from pyconvopt.training.results import ResultsFile
from tests.tiny_data import write_tiny_set
from tests.training.commands_together import COMMANDS
from tests.training.test_processes import launched


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What two processes said and wrote."""
    place = tmp_path_factory.mktemp("together")
    write_tiny_set(place, 200, 40)
    np.save(place / "x.npy", np.random.default_rng(0).random((3, 28, 28), dtype=np.float32))
    program = ("-m", "tests.training.commands_together")
    run = launched(2, *program, cwd=place, PYCONVOPT_DATA=str(place))
    assert run.returncode == 0, run.stderr
    return place


def said(folder: Path, name: str, rank: int) -> list[str]:
    return (folder / f"{name}-{rank}.out").read_text().splitlines()


@pytest.mark.parametrize("name", COMMANDS)
def test_one_process_speaks(folder, name):
    assert (folder / f"{name}-0.err").read_text() == ""
    first = said(folder, name, 0)
    assert len(first) > 1 and first[-1] == "status 0"
    assert said(folder, name, 1) == ["status 0"]
    assert (folder / f"{name}-1.err").read_text() == ""


def alone(folder: Path, name: str, monkeypatch, capsys) -> list[str]:
    """What one process says, in a folder of its own."""
    (folder / "alone").mkdir(exist_ok=True)
    monkeypatch.chdir(folder / "alone")
    monkeypatch.setenv("PYCONVOPT_DATA", str(folder))
    assert cli.run(COMMANDS[name]) == 0
    return capsys.readouterr().out.splitlines()


def test_results_are_written_once(folder, monkeypatch, capsys):
    alone(folder, "compare", monkeypatch, capsys)
    text = (folder / "compared" / "results.csv").read_text()
    assert text.count("name,fingerprint") == 1
    got, wanted = (
        ResultsFile(place / "compared" / "results.csv").runs for place in (folder, folder / "alone")
    )
    assert list(got) == list(wanted) and len(got) == 4
    for key, run in wanted.items():
        assert got[key].fingerprint == run.fingerprint
        for name, values in run.history.items():
            assert got[key].history[name] == pytest.approx(values, rel=1e-3, abs=0.026), name


def test_the_joined_batch_decides(folder, monkeypatch, capsys):
    """The range test and the sweep see the batches that one process sees."""
    assert said(folder, "sweep", 0)[-2] == alone(folder, "sweep", monkeypatch, capsys)[-1]
    got, wanted = (
        [float(line.split(": ")[1]) for line in lines]
        for lines in (
            said(folder, "find-lr", 0)[:-1],
            alone(folder, "find-lr", monkeypatch, capsys),
        )
    )
    assert got == pytest.approx(wanted, rel=0.05)


def test_sigterm_is_told_once(folder):
    assert [said(folder, "terminated", rank)[-1] for rank in (0, 1)] == ["status 143"] * 2
    errors = [(folder / f"terminated-{rank}.err").read_text() for rank in (0, 1)]
    assert errors[0].startswith("ended by SIGTERM after step 2") and errors[0].count("\n") == 1
    assert errors[1] == ""
