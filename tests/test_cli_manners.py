"""How the command line speaks: help, versions, completion, warnings, and what is not foreseen."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

import pyconvopt
from pyconvopt import cli, files, machine
from pyconvopt.training.recipes import Recipe
from pyconvopt.training.results import ResultsFile, RunRecord
from pyconvopt.training.run import default_folder, make_folder, run_recipe

pytest.importorskip("typer", reason="the command line needs the extra 'cli'")
pytest.importorskip("rich", reason="the command line needs the extra 'cli'")
pytest.importorskip("matplotlib", reason="the command line needs the extra 'cli'")
pytest.importorskip("safetensors", reason="the command line needs the extra 'cli'")

from pyconvopt import cli_experiments, cli_machine, commands

COMMANDS = (
    *("train", "evaluate", "predict", "pictures", "export", "explain"),
    *("find-lr", "sweep", "compare", "bench", "doctor"),
)


@pytest.fixture
def run(capsys):
    """Runs a command in this process: its status, output and error text."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.run(arguments)
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Recipe.load("seed").model((28, 28, 1)).save(tmp_path / "model.safetensors")
    return "model.safetensors"


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_has_an_example(self, run, command):
        status, out, _ = run(command, "--help")
        assert status == 0
        examples = out.partition("Examples:\n")[2].strip().splitlines()
        assert examples and all(
            line.strip().startswith(f"pyconvopt {command}") for line in examples
        )

    def test_version(self, run):
        assert run("--version") == (0, f"pyconvopt {pyconvopt.__version__}\n", "")

    def test_as_a_module(self):
        command = [sys.executable, "-m", "pyconvopt", "--version"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert said.stdout == f"pyconvopt {pyconvopt.__version__}\n"

    @pytest.mark.parametrize(
        ("words", "wanted"),
        [
            (("pyconvopt", "comp"), ["compare"]),
            (("pyconvopt", "train", "--recipe", "resnet_"), ["resnet_cifar"]),
        ],
    )
    def test_completion(self, words, wanted):
        said = subprocess.run(
            [sys.executable, "-m", "pyconvopt.cli"],
            env={
                **os.environ,
                "_PYCONVOPT_COMPLETE": "complete_bash",
                "COMP_WORDS": " ".join(words),
                "COMP_CWORD": str(len(words) - 1),
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert said.stdout.split() == wanted


class TestJson:
    def test_predict(self, run, model):
        np.save("x.npy", np.random.default_rng(0).random((3, 28, 28), dtype=np.float32))
        status, out, err = run("predict", model, "x.npy", "--scale", "1", "--json")
        assert status == 0, err
        lines = run("predict", model, "x.npy", "--scale", "1")[1].splitlines()
        rows = json.loads(out)
        assert [line.split("\t") for line in lines] == [
            [str(row["index"]), row["class"], f"{row['probability']:.4f}"] for row in rows
        ]

    def test_no_number_is_null(self, run, model):
        np.save("x.npy", np.full((1, 28, 28), np.nan, np.float32))
        status, out, err = run("predict", model, "x.npy", "--scale", "1", "--json")
        assert status == 0, err
        assert json.loads(out, parse_constant=pytest.fail)[0]["probability"] is None
        assert run("predict", model, "x.npy", "--scale", "-1")[0] == 2

    @pytest.mark.parametrize("command", ["train", "bench"])
    def test_no_number_is_null_everywhere(self, run, monkeypatch, tmp_path, command):
        found = {"loss": float("nan"), "deep": [(float("inf"), 1.0)]}
        result = SimpleNamespace(folder=tmp_path, test=found, table=lambda: found)
        monkeypatch.setattr(commands, "run_recipe", lambda *_: result)
        monkeypatch.setattr(cli_machine.benchmark, "measure", lambda *_: result)
        status, out, err = run(command, "--json")
        assert status == 0, err
        read = json.loads(out, parse_constant=pytest.fail)
        assert read.get("test", read) == {"loss": None, "deep": [[None, 1.0]]}

    def test_export(self, run, model, tmp_path):
        status, out, err = run("export", model, "w.safetensors", "--json")
        assert status == 0, err
        size = (tmp_path / "w.safetensors").stat().st_size
        assert json.loads(out) == {"path": "w.safetensors", "bytes": size}

    def test_explain(self, run, model):
        flops = []
        for filters in (8, 16):
            change = f"layers.0.filters={filters}"
            status, out, err = run("explain", "--set", change, "--batch-size", "2", "--json")
            assert status == 0, err
            flops.append(json.loads(out)[0]["flops"])
        assert flops[1] == 2 * flops[0]
        status, _, err = run("explain", model, "--set", "layers.0.filters=8")
        assert status == 2 and "a trained model is explained as it is" in err

    def test_doctor(self, run):
        status, out, err = run("doctor", "--json")
        assert status == 0, err
        assert json.loads(out)["packages"]["pyconvopt"]


class TestDoctor:
    FINE: ClassVar[dict[str, Any]] = {
        "threads": 4,
        "processors": 4,
        "load": 0.5,
        "available": ["baseline", "avx2"],
        "instruction_set": "avx2",
        "winograd": True,
        "openmp": ["/usr/lib/libgomp.so.1"],
        "environment": {},
        "packages": dict.fromkeys(machine.OPTIONAL, "1.0"),
    }

    def test_a_machine_without_fault(self):
        assert machine.advice(self.FINE) == []

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"threads": 8}, "8 threads share 4 processors: they wait"),
            (
                {"threads": 1, "environment": {"OMP_NUM_THREADS": "1"}},
                r"1 of 4 processors compute \(OMP_NUM_THREADS=1\): set OMP_NUM_THREADS=4",
            ),
            ({"load": 6.0}, "other programs are busy: 6.0 want"),
            ({"instruction_set": "baseline"}, "use baseline, the machine has avx2: unset"),
            ({"available": ["baseline"], "instruction_set": "baseline"}, "has no AVX2"),
            ({"winograd": False}, "Winograd's algorithm is off"),
            ({"openmp": ["/a/libgomp.so.1", "/b/libiomp5.so"]}, "2 OpenMP runtimes are loaded"),
            ({"environment": {"OMP_PROC_BIND": "true"}}, "OMP_PROC_BIND=true is set"),
            (
                {"packages": FINE["packages"] | {"onnx": None, "onnxscript": None}},
                r'onnx, onnxscript missing: pip install "pyconvopt\[onnx\]"',
            ),
        ],
    )
    def test_what_is_slow_and_why(self, changes, said):
        (line,) = machine.advice(self.FINE | changes)
        assert re.search(said, line), line

    @pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs Linux")
    def test_runtimes_of_this_process(self):
        found = machine.openmp_runtimes()
        assert found and all(os.path.isfile(file) for file in found)
        maps = "\n".join(
            f"7f r-xp 0 08:01 7 {file}"
            for file in ("/a b/libgomp-a34b3233.so.1", "/c/libiomp5.so", "/c/libcomp.so", "[heap]")
        )
        assert machine.openmp_runtimes(maps) == ["/a b/libgomp-a34b3233.so.1", "/c/libiomp5.so"]

    def test_report(self):
        text = machine.report(machine.facts())
        for part in ("OpenMP", "libgomp", "tensorboard", "optuna", "instruction set"):
            assert part in text


class TestWarningsAndErrors:
    def test_a_warning_is_one_line(self):
        program = (
            "import warnings; from pyconvopt import cli; "
            "cli.run = lambda: warnings.warn('the disk\\nis nearly full') or 0; cli.main()"
        )
        variables = {name: value for name, value in os.environ.items() if name != cli.DEBUG}
        for debug in ({}, {cli.DEBUG: "1"}):
            said = subprocess.run(
                [sys.executable, "-c", program],
                env=variables | debug,
                capture_output=True,
                text=True,
                timeout=120,
            ).stderr
            assert "is nearly full" in said
            assert (said == "warning: the disk is nearly full\n") == (not debug)

    @pytest.mark.parametrize("error", [KeyError("scale"), AttributeError("no such thing")])
    def test_the_unforeseen(self, run, monkeypatch, error):
        def fails(*arguments):
            raise error

        monkeypatch.setattr(commands, "run_recipe", fails)
        monkeypatch.delenv(cli.DEBUG, raising=False)
        status, _, err = run("train")
        assert status == 1 and err.count("\n") == 1
        assert err.startswith(f"error: unexpected {type(error).__name__}: ")
        assert "PYCONVOPT_DEBUG=1" in err
        monkeypatch.setenv(cli.DEBUG, "1")
        status, _, err = run("train")
        assert status == 1 and err.startswith("Traceback") and "in fails" in err

    def test_a_full_disk(self, run, monkeypatch):
        def fails(*arguments):
            raise OSError(errno.ENOSPC, "No space left on device", "runs/history.csv")

        monkeypatch.setattr(commands, "run_recipe", fails)
        status, _, err = run("train")
        assert status == 1 and err == (
            "error: no space left on the disk for runs/history.csv: free some, or choose a folder "
            "on another disk\n"
        )

    @pytest.mark.parametrize("write", ["whole", "results"])
    def test_a_full_disk_names_the_file(self, tmp_path, monkeypatch, write):
        def full(handle):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(files.os, "fsync", full)
        path = tmp_path / "results.csv"
        with pytest.raises(OSError, match=str(path)):
            if write == "whole":
                files.write_whole(path, "text")
            else:
                ResultsFile(path).add(RunRecord("a", "b", 0, [1.0], {"loss": [1.0]}))

    def test_other_processes_say_what_only_they_know(self, run, monkeypatch):
        def fails(*arguments):
            raise ValueError("broken")

        monkeypatch.setattr(commands, "run_recipe", fails)
        monkeypatch.setenv("RANK", "1")
        assert run("train")[2] == "error in process 1: broken\n"
        assert run("train", "--epoch", "3")[::2] == (2, "")
        assert run("doctor") == (0, "", "")


def test_over_takes_ranges():
    over = ["compile.learning_rate={low = 1e-4, high = 0.1}", "model.width=[2, 4]"]
    assert cli_experiments.values_of(over) == {
        "compile.learning_rate": {"low": 1e-4, "high": 0.1},
        "model.width": [2, 4],
    }


def test_a_device_is_written_to_and_stays(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    files.write_whole(pipe, "text")
    reader.join(10)
    assert got == ["text"] and pipe.is_fifo()


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "results.csv")
    for text in ("first", "second"):
        files.write_whole(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "disk" / "results.csv").read_text() == text
    assert len(list(tmp_path.rglob("*"))) == 3


def test_two_threads_write_a_file_whole(tmp_path, monkeypatch):
    path, sync, writers = tmp_path / "file", os.fsync, []

    def while_another_writes(handle):
        sync(handle)
        if not writers:
            writers.append(threading.Thread(target=files.write_whole, args=(path, "other")))
            writers[0].start()
            writers[0].join(10)
            assert path.read_text() == "other"

    monkeypatch.setattr(files.os, "fsync", while_another_writes)
    files.write_whole(path, "text")
    assert path.read_text() == "text" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("letter", ["n", "é"])
def test_a_name_may_be_as_long_as_the_disk_takes(tmp_path, letter):
    path = tmp_path / (letter * (255 // len(letter.encode())))
    files.write_whole(path, "text")
    assert path.read_text() == "text" and list(tmp_path.iterdir()) == [path]
    longer = tmp_path / f"{path.name}{letter}"
    with pytest.raises(OSError, match=f"{longer.name}'") as caught:
        files.write_whole(longer, "text")
    assert caught.value.errno == errno.ENAMETOOLONG and list(tmp_path.iterdir()) == [path]


def test_a_default_folder_belongs_to_one_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda form: "now")
    recipe = Recipe.load("seed")
    made = [default_folder(recipe) for _ in range(3)]
    assert [str(each) for each in made] == ["runs/seed-now", "runs/seed-now-2", "runs/seed-now-3"]
    assert make_folder(made[0]) == made[0]  # one that is given may be there
    (tmp_path / "runs").rename(tmp_path / "other")
    (tmp_path / "runs").touch()
    with pytest.raises(OSError, match="cannot write to the run folder runs/seed-now: Not a dir"):
        default_folder(recipe)


@pytest.mark.parametrize("given", [False, True])
def test_a_run_that_cannot_begin_leaves_nothing(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    recipe = Recipe.load("seed")
    with pytest.raises(ImportError, match="matplotlib"):
        run_recipe(recipe, default_folder(recipe) if given else None, verbose=0)
    assert not list(tmp_path.glob("runs/*"))


def test_bad_test_images_are_refused_at_the_start(tmp_path):
    x = np.random.rand(40, 8, 8).astype(np.float32)
    bad = x[:10].copy()
    bad[3, 2, 2] = np.nan
    y = np.arange(40) % 2
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=bad, y_test=y[:10])
    recipe = Recipe.load("seed")
    recipe.set("data.name", str(tmp_path / "d.npz"))
    with pytest.raises(ValueError, match="test images"):
        run_recipe(recipe, tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()
