"""The commands that resume, search, compare and export, as a user runs them."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pyconvopt import cli, models
from tests.tiny_data import write_tiny_set

pytest.importorskip("typer", reason="the command line needs the extra 'cli'")
pytest.importorskip("rich", reason="the command line needs the extra 'cli'")
pytest.importorskip("matplotlib", reason="the command line needs the extra 'cli'")
pytest.importorskip("safetensors", reason="the command line needs the extra 'cli'")

from pyconvopt import cli_experiments, cli_options

SMALL = (
    "--set",
    "layers.0.filters=4",
    "--set",
    "layers.2.filters=4",
    "--set",
    "layers.4.filters=4",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiments")
    write_tiny_set(folder, 200, 40)
    return folder


@pytest.fixture
def run(base, monkeypatch, capsys):
    """Runs a command in this process: its status, output lines and error text."""
    monkeypatch.chdir(base)
    monkeypatch.setenv("PYCONVOPT_DATA", str(base))

    def call(*arguments: str) -> tuple[int, list[str], str]:
        capsys.readouterr()
        status = cli.run(arguments)
        said = capsys.readouterr()
        return status, said.out.splitlines(), said.err

    return call


class TestResume:
    def process(self, base: Path, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "pyconvopt.cli", "train", *arguments],
            cwd=base,
            env={**os.environ, "PYCONVOPT_DATA": str(base)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
    def test_broken_off_and_resumed(self, base, run, number, status):
        name = f"broken{status}"
        options = (*SMALL, "--epochs", "400", "--batch-size", "20")
        child = self.process(base, "--out", name, *options)
        history = base / name / "history.csv"
        for _ in range(600):
            if history.exists() and history.read_text().count("\n") > 5:
                break
            time.sleep(0.05)
        child.send_signal(number)
        _, said = child.communicate(timeout=60)
        assert child.returncode == status
        if number == signal.SIGTERM:
            assert said.startswith("ended by SIGTERM after step") and said.count("\n") == 2
            assert f"pyconvopt train --resume {name} goes on with it" in said
        # The rest is made short: what was to be 400 epochs ends soon after where it was.
        done = history.read_text().count("\n") - 1
        recipe = base / name / "recipe.toml"
        epochs = done + 2
        recipe.write_text(recipe.read_text().replace("epochs = 400", f"epochs = {epochs}"))
        got, lines, err = run("train", "--resume", name)
        assert got == 0, err
        assert lines[-1].startswith("test accuracy: ") and f"epoch {epochs}/{epochs}" in lines[-3]
        assert not (base / name / "checkpoint").exists()
        whole, _, _ = run("train", "--out", f"{name}-whole", *options, "--epochs", str(epochs))
        assert whole == 0
        first, second = (base / each / "weights.safetensors" for each in (name, f"{name}-whole"))
        assert first.read_bytes() == second.read_bytes()
        rows = [
            list(csv.reader((base / each / "history.csv").open()))
            for each in (name, f"{name}-whole")
        ]
        assert rows[0] == rows[1]
        got, _, err = run("train", "--resume", name)
        assert got == 1 and "has ended; there is nothing to resume" in err

    @pytest.mark.parametrize(
        ("arguments", "status", "part"),
        [
            (("--resume", "nowhere"), 1, "nowhere holds no run: there is no recipe.toml in it"),
            (("--resume", "x", "--epochs", "3"), 2, "it takes no other option"),
        ],
    )
    def test_refusals(self, run, arguments, status, part):
        got, _, err = run("train", *arguments)
        assert got == status and part in err and err.count("\n") == 1

    def test_one_without_a_checkpoint_begins_anew(self, run, base):
        options = (*SMALL, "--epochs", "1")
        assert run("train", *options, "--out", "begun")[0] == 0
        (base / "unbegun").mkdir()
        recipe = (base / "begun" / "recipe.toml").read_text()
        (base / "unbegun" / "recipe.toml").write_text(recipe)
        status, _, err = run("train", "--resume", "unbegun")
        assert status == 0, err
        first, second = (base / each / "weights.safetensors" for each in ("begun", "unbegun"))
        assert first.read_bytes() == second.read_bytes()

    def test_a_diverged_run_is_a_failed_one(self, run, base):
        with pytest.warns(UserWarning, match="the loss is"):
            got, _, err = run(
                "train", *SMALL, "--out", "diverged", "--set", "compile.learning_rate=1e38"
            )
        assert got == 1 and "set a lower compile.learning_rate" in err
        assert not (base / "diverged").exists()  # it is free for the corrected command


class TestFindLr:
    def test_last_line_and_picture(self, run, base):
        status, lines, err = run("find-lr", *SMALL, "--steps", "40", "--plot", "lr.png")
        assert status == 0, err
        assert [line.split(":")[0] for line in lines] == [
            "valley",
            "steepest",
            "minimum",
            "learning rate",
        ]
        assert lines[0].split(": ")[1] == lines[-1].split(": ")[1]
        assert (base / "lr.png").read_bytes().startswith(b"\x89PNG")
        status, lines, _ = run("find-lr", *SMALL, "--steps", "40", "--json", "--rule", "minimum")
        read = json.loads("\n".join(lines))
        assert status == 0 and read["suggestion"] == read["by_rule"]["minimum"]

    def test_refusals(self, run):
        for arguments, status, part in (
            (("--steps", "3"), 2, "--steps"),
            (("--rule", "vally"), 2, "did you mean 'valley'"),
            (("--low", "2", "--high", "1"), 2, "must grow"),
            (("--data", "fashion"), 2, "did you mean 'fashion-mnist'"),
        ):
            got, _, err = run("find-lr", *SMALL, *arguments)
            assert got == status and part in err and err.count("\n") == 1

    def test_the_rate_is_not_lost_with_the_picture(self, run, base):
        (base / "file").write_text("")
        status, lines, _ = run("find-lr", *SMALL, "--steps", "10", "--plot", "file/lr.png")
        assert status == 1 and lines[-1].startswith("learning rate: ")


class TestSweep:
    def test_best_settings(self, run, base):
        over = ("--over", "compile.learning_rate=[1e-7, 0.01]", "--epochs", "2")
        status, lines, err = run("sweep", *SMALL, *over, "--out", "sweep.csv")
        assert status == 0, err
        assert lines[-1] == "best: --set compile.learning_rate=0.01"
        with open(base / "sweep.csv", newline="") as file:
            assert len(list(csv.DictReader(file))) == 2
        status, lines, _ = run("sweep", *SMALL, *over, "--json")
        assert json.loads(lines[0])["best"] == {"compile.learning_rate": 0.01} and len(lines) == 1

    def test_the_best_is_said_as_a_shell_takes_it(self, run, base):
        smooth = '{name = "sparse_categorical_crossentropy", config = {label_smoothing = 0.1}}'
        over = ("--over", f"compile.loss=[{smooth}]", "--over", 'compile.optimizer=["sgd"]')
        (base / "file").write_text("")
        # The table cannot be written: what was found is said all the same.
        status, lines, _ = run("sweep", *SMALL, *over, "--epochs", "1", "--out", "file/s.csv")
        assert status == 1 and lines[-1].startswith("best: ")
        options = shlex.split(lines[-1].removeprefix("best: "))
        assert options == ["--set", f"compile.loss={smooth}", "--set", 'compile.optimizer="sgd"']
        chosen = cli_options.chosen_recipe("seed", options[1::2])
        assert chosen.table["compile"]["loss"]["config"] == {"label_smoothing": 0.1}

    @pytest.mark.parametrize(
        ("over", "more", "part"),
        [
            ("compile.learning_rate=0.1", (), "--over takes key=[value, value]"),
            ("fit.seed=[1, 2]", (), "not 'fit.seed'"),
            ("fit.epochs=[1, 2]", (), "not 'fit.epochs'"),
            ("compile.rate=[1, 2]", (), "unknown key in [compile] 'rate'"),
            ("optimizer.momentum=[0.5, 0.9]", (), "'momentum'"),
            ("compile.learning_rate={low = 0.1, high = 1.0}", (), "sampler 'optuna'"),
            ("fit.batch_size=[10]", ("--sampler", "gird"), "did you mean 'grid'"),
            ("fit.batch_size=[10]", ("--trials", "3"), "--trials goes with"),
        ],
    )
    def test_refusals(self, run, over, more, part):
        status, _, err = run("sweep", "--over", over, *more)
        assert status == 2 and part in err and err.count("\n") == 1


class TestCompare:
    def test_files_and_reruns(self, run, base):
        arguments = (
            "compare",
            "adam=seed",
            "sgd=seed,compile.optimizer=sgd",
            *SMALL,
            *("--set", "fit.epochs=2", "--seeds", "2", "--target", "0.1", "--out", "cmp"),
        )
        status, lines, err = run(*arguments, "--html")
        assert status == 0, err
        assert len([line for line in lines if ", seed " in line]) == 4
        assert (base / "cmp" / "summary.md").read_text().splitlines()[2].startswith("| adam | 2 |")
        assert sorted(file.name for file in (base / "cmp").iterdir()) == [
            "comparison.html",
            "comparison.png",
            "results.csv",
            "summary.csv",
            "summary.md",
        ]
        status, again, _ = run(*arguments, "--json")
        assert status == 0 and len(again) == 1  # nothing was run again
        rows = json.loads(again[0])["rows"]
        assert [row["name"] for row in rows] == ["adam", "sgd"] and rows[1]["p"] is not None

    def test_refusals(self, run):
        for arguments, status, part in (
            (("seed", "seed"), 2, "two recipes are called 'seed': write name=recipe"),
            (("sed",), 2, "did you mean 'seed'"),
            ((), 2, "Missing argument"),
        ):
            got, _, err = run("compare", *arguments)
            assert got == status and part in err and err.count("\n") == 1

    def test_lists_within_an_entry(self):
        name, recipe = cli_experiments.named_recipe(
            "k5=seed,layers.0.kernel_size=[5,5],fit.epochs=2", None, ["fit.seed=3"]
        )
        assert name == "k5" and recipe.table["layers"][0]["kernel_size"] == [5, 5]
        assert recipe.table["fit"]["epochs"] == 2 and recipe.table["fit"]["seed"] == 3
        assert cli_experiments.split_at_commas("a,b={x='1,2',y=[3,[4,5]]},c") == [
            *("a", "b={x='1,2',y=[3,[4,5]]}", "c")
        ]


class TestExport:
    @pytest.fixture
    def trained(self, base):
        from pyconvopt.training.recipes import Recipe

        recipe = Recipe.load("seed")
        recipe.set("layers.0.filters", 4)
        model = recipe.model((28, 28, 1))
        model.save(base / "model.safetensors")
        return models.load(base / "model.safetensors")

    x = np.random.default_rng(0).random((3, 28, 28, 1), dtype=np.float32)

    def export(self, run, base, name) -> Path:
        status, lines, err = run("export", "model.safetensors", name)
        assert status == 0, err
        assert lines == [f"written: {name}"]
        return base / name

    def test_weights(self, run, base, trained):
        from safetensors.torch import load_file

        got = load_file(self.export(run, base, "weights.safetensors"))
        for name, tensor in trained.state_dict().items():
            assert torch.equal(got[name], tensor)

    def test_a_torch_program_that_needs_torch_alone(self, run, base, trained):
        path = self.export(run, base, "model.pt2")
        program = torch.export.load(path)
        assert "pyconvopt" not in str(program.graph)
        got = program.module()(torch.from_numpy(self.x)).detach().numpy()
        np.testing.assert_allclose(got, trained.predict(self.x), rtol=1e-4, atol=1e-6)

    @pytest.mark.filterwarnings("ignore")
    def test_onnx(self, run, base, trained):
        onnx = pytest.importorskip("onnx", reason="needs the extra 'onnx'")
        pytest.importorskip("onnxscript", reason="needs the extra 'onnx'")
        from onnx.reference import ReferenceEvaluator

        model = onnx.load(self.export(run, base, "model.onnx"))
        onnx.checker.check_model(model)
        (got,) = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: self.x})
        np.testing.assert_allclose(got, trained.predict(self.x), rtol=1e-4, atol=1e-6)

    def test_refusals(self, run, trained, monkeypatch):
        status, _, err = run("export", "model.safetensors", "model.h5")
        assert status == 2 and "must end in .safetensors, .pt2, .onnx, got 'model.h5'" in err
        monkeypatch.setitem(sys.modules, "onnx", None)
        status, _, err = run("export", "model.safetensors", "m.onnx")
        assert status == 1 and 'pip install "pyconvopt[onnx]"' in err


def test_json_of_train_and_evaluate(run, base):
    status, lines, err = run("train", *SMALL, "--epochs", "1", "--out", "told", "--json")
    assert status == 0, err
    read = json.loads("\n".join(lines))
    assert read["folder"] == "told" and set(read["test"]) == {"loss", "accuracy"}
    status, lines, _ = run("evaluate", "told", "--json")
    assert json.loads("\n".join(lines)) == pytest.approx(read["test"])
