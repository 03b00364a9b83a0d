"""The command line as a user runs it: a process of its own, its exit status, one-line errors."""

from __future__ import annotations

import csv
import json
import os
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from pyconvopt import cli, cli_options, commands, layers, models
from pyconvopt.training.recipes import Recipe
from tests.tiny_data import write_tiny_set

for package in ("typer", "rich", "matplotlib", "safetensors"):
    pytest.importorskip(package, reason="the command line needs the extra 'cli'")


def pyconvopt(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pyconvopt.cli", *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


def assert_refused(result: subprocess.CompletedProcess[str], status: int, *parts: str) -> None:
    assert result.returncode == status, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


@pytest.fixture
def refused(folder, monkeypatch, capsys):
    """Runs a command in this process, which is quicker, and checks that it is refused."""

    def run(arguments: tuple[str, ...], status: int, parts: tuple[str, ...]) -> None:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("PYCONVOPT_DATA", str(folder))
        got = cli.run(arguments)
        assert_refused(
            subprocess.CompletedProcess([], got, "", capsys.readouterr().err), status, *parts
        )

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a tiny data set and one finished run on it."""
    base = tmp_path_factory.mktemp("cli")
    write_tiny_set(base, 300, 60)
    result = train(base, "--out", "first", "--epochs", "2", "--set", "layers.0.filters=16")
    assert result.returncode == 0, result.stderr
    (base / "output").write_text(result.stdout)
    return base


def train(base: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return pyconvopt(
        "train",
        "--data",
        "fashion-mnist",
        "--recipe",
        "seed",
        *arguments,
        cwd=base,
        PYCONVOPT_DATA=str(base),
        **environment,
    )


class TestTrain:
    def test_what_it_prints(self, folder):
        lines = (folder / "output").read_text().splitlines()
        assert [line.split()[:2] for line in lines[:2]] == [["epoch", "1/2"], ["epoch", "2/2"]]
        name, _, value = lines[-1].partition(": ")
        assert name == "test accuracy" and len(value) == 6 and 0 <= float(value) <= 1

    def test_the_run_folder(self, folder):
        run = folder / "first"
        assert sorted(file.name for file in run.iterdir()) == [
            "curves.png",
            "environment.json",
            "history.csv",
            "history.json",
            "recipe.toml",
            "weights.safetensors",
        ]
        history = json.loads((run / "history.json").read_text())["history"]
        assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
        with open(run / "history.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [float(row["loss"]) for row in rows] == history["loss"]
        assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
        made_with = json.loads((run / "environment.json").read_text())
        assert made_with["packages"]["torch"] == metadata.version("torch")
        assert made_with["threads"] >= 1 and made_with["instruction_set"]
        recipe = Recipe.load(str(run / "recipe.toml"))
        assert recipe.table["fit"]["epochs"] == 2 and recipe.table["layers"][0]["filters"] == 16
        model = models.load(run / "weights.safetensors")
        assert model.layers[0].weight.shape == (16, 1, 3, 3)

    def test_the_written_recipe_repeats_the_run(self, folder):
        result = pyconvopt(
            "train",
            "--recipe",
            "first/recipe.toml",
            "--out",
            "again",
            cwd=folder,
            PYCONVOPT_DATA=str(folder),
        )
        assert result.returncode == 0, result.stderr
        first, again = (
            models.load(folder / run / "weights.safetensors") for run in ("first", "again")
        )
        for name, tensor in first.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[name]), name

    def test_default_folder(self, folder):
        result = train(folder, "--epochs", "1", "--batch-size", "100")
        assert result.returncode == 0, result.stderr
        (run,) = (folder / "runs").iterdir()
        assert run.name.startswith("seed-") and f"runs/{run.name}" in result.stdout

    @pytest.mark.parametrize(
        ("arguments", "parts"),
        [
            (("--epochs", "0"), ("--epochs", "1")),
            (("--epochs", "many"), ("--epochs",)),
            (("--epoch", "3"), ("No such option",)),
            (("--recipe", "sed"), ("unknown recipe 'sed'", "did you mean 'seed'")),
            (("--set", "fit.epoch=3"), ("did you mean 'epochs'",)),
            (("--set", "fit.epochs"), ("--set takes key=value",)),
            (("--set", "fit.epochs=many"), ("fit.epochs must be int, got 'many'",)),
            (("--set", "compile.loss=mze"), ("unknown loss 'mze': did you mean 'mse'",)),
            (("--set", 'compile.metrics=["acuracy"]'), ("did you mean 'accuracy'",)),
            (("--set", "compile.learning_rate=nan"), ("learning_rate must be a number",)),
            (("--set", "compile.clip_norm=-1"), ("clip_norm must be more than 0",)),
            (("--set", "compile.accumulate=0"), ("accumulate must be a whole number >= 1",)),
            (("--set", "optimizer.momentum=3"), ("[optimizer] of the recipe", "'momentum'")),
            (("--set", "layers.0.type=Conv9"), ("layers.0 of the recipe", "'Conv2D'")),
            (("--set", "layers.0.filters=abc"), ("layers.0 of the recipe", "'abc'")),
            (("--set", "layers.0.filter=3"), ("layers.0 of the recipe", "'filter'")),
            (("--recipe", "resnet18", "--set", "model.architecture=resnet19"), ("'resnet18'",)),
            (("--set", "data.damaged=skipp"), ("did you mean 'skip'",)),
            (("--set", "data.scale=0"), ("data.scale must be a number above 0, got 0",)),
            (("--data", "fashion"), ("unknown data set 'fashion'", "did you mean")),
            (("--data", "none.npz"), ("there is no file", "none.npz")),
        ],
    )
    def test_wrong_usage(self, refused, folder, arguments, parts):
        refused(("train", *arguments, "--out", "wrong"), 2, parts)
        assert not (folder / "wrong").exists()

    def test_exit_status_of_the_process(self, folder):
        assert_refused(train(folder, "--epochs", "0"), 2, "--epochs")
        assert_refused(train(folder, "--out", "first"), 1, "holds a run already")

    @pytest.mark.parametrize(
        ("arguments", "parts"),
        [
            (("--out", "first"), ("holds a run already",)),
            (("--out", "output"), ("cannot write to the run folder output",)),
            (("--set", "layers.7.units=5"), ("is out of range", "5 outputs")),
            (("--set", "layers.0.kernel_size=[40, 40]"), ("too small for a kernel of 40×40",)),
        ],
    )
    def test_failed_runs(self, refused, tmp_path, arguments, parts):
        out = () if "--out" in arguments else ("--out", str(tmp_path / "run"))
        refused(("train", *arguments, *out), 1, parts)
        # The corrected command finds the folder free.
        assert not (tmp_path / "run").exists()

    def test_a_failed_run_leaves_what_was_there(self, refused, tmp_path):
        run = tmp_path / "run"
        run.mkdir()
        (run / "history.csv").write_text("mine")
        refused(("train", "--set", "layers.7.units=5", "--out", str(run)), 1, ("is out of range",))
        assert [file.name for file in run.iterdir()] == ["history.csv"]
        assert (run / "history.csv").read_text() == "mine"

    def test_changes_are_judged_together(self, folder, monkeypatch):
        monkeypatch.setenv("PYCONVOPT_DATA", str(folder))
        changes = ["optimizer.momentum=0.9", "compile.optimizer=sgd"]
        chosen = cli_options.recipe_to_train("seed", None, changes)
        assert chosen.table["optimizer"] == {"momentum": 0.9}

    def test_interrupted(self, refused, monkeypatch):
        def interrupt(*arguments):
            raise KeyboardInterrupt

        monkeypatch.setattr(commands, "run_recipe", interrupt)
        refused(("train",), 130, ("interrupted",))

    @pytest.mark.parametrize("named", [True, False])
    def test_whoever_interrupts_is_told_how_it_goes_on(
        self, folder, tmp_path, monkeypatch, capsys, named
    ):
        def interrupt(recipe, run, verbose):
            run.mkdir(parents=True, exist_ok=True)
            (run / "recipe.toml").write_text(recipe.to_toml())
            raise KeyboardInterrupt

        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PYCONVOPT_DATA", str(folder))
        monkeypatch.setattr(commands, "run_recipe", interrupt)
        assert cli.run(("train", *(("--out", "my runs/a") if named else ()))) == 130
        told, last = capsys.readouterr().err.splitlines()
        (run,) = (each.parent for each in Path().rglob("recipe.toml"))
        assert f"pyconvopt train --resume {shlex.quote(str(run))} goes on" in told
        assert last == "error: interrupted"
        # What has no model yet says so.
        assert cli.run(("evaluate", str(run))) == 1
        assert "has not ended" in (said := capsys.readouterr().err) and "--resume" in said

    def test_damaged_data(self, tmp_path):
        write_tiny_set(tmp_path)
        path = tmp_path / "fashion-mnist" / "t10k-images-idx3-ubyte.gz"
        path.write_bytes(path.read_bytes()[:-20])
        assert_refused(train(tmp_path, "--out", "run"), 1, str(path), "damaged", "wanted")

    @pytest.mark.parametrize("package", ["typer", "matplotlib", "safetensors"])
    def test_missing_packages_name_the_extra(self, folder, tmp_path, package):
        (tmp_path / f"{package}.py").write_text(
            f"raise ModuleNotFoundError('No module named {package}', name={package!r})"
        )
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        result = train(folder, "--out", f"without-{package}", PYTHONPATH=path)
        assert_refused(result, 1, package, 'pip install "pyconvopt[cli]"')


class TestUse:
    def test_evaluate_gives_what_train_gave(self, folder):
        result = pyconvopt("evaluate", "first", cwd=folder, PYCONVOPT_DATA=str(folder))
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines()[-1] == ((folder / "output").read_text().splitlines()[-1])

    def test_predict(self, folder):
        images = np.random.default_rng(0).integers(0, 255, (3, 28, 28), dtype=np.uint8)
        np.save(folder / "images.npy", images)
        result = pyconvopt("predict", "first", "images.npy", "--out", "p.npy", cwd=folder)
        assert result.returncode == 0, result.stderr
        rows = [line.split("\t") for line in result.stdout.splitlines()]
        assert [row[0] for row in rows] == ["0", "1", "2"]
        probabilities = np.load(folder / "p.npy")
        assert [float(row[2]) for row in rows] == pytest.approx(probabilities.max(1), abs=1e-4)
        model = models.load(folder / "first" / "weights.safetensors")
        np.testing.assert_allclose(
            probabilities, model.predict(images[..., None] / np.float32(255)), rtol=1e-5
        )

    def test_predict_with_dropout_on(self, folder):
        model = models.Sequential(
            [
                layers.Flatten(input_shape=(28, 28, 1)),
                layers.Dropout(0.5),
                layers.Dense(10, "softmax"),
            ]
        )
        model.save(folder / "dropout.safetensors")
        images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
        np.save(folder / "three.npy", images)
        rest = ("three.npy", "--samples", "4", "--out", "q.npy", "--scale", "255")
        result = pyconvopt("predict", "dropout.safetensors", *rest, cwd=folder)
        assert result.returncode == 0, result.stderr
        assert all(line.count("\t") == 3 and "±" in line for line in result.stdout.splitlines())
        assert np.load(folder / "q.npy").shape == (2, 3, 10)
        result = pyconvopt("predict", "first", *rest, cwd=folder)
        assert_refused(result, 1, "the model has no dropout")

    def test_the_same_pixels_of_any_type(self, folder, capsys):
        pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
        said = []
        for kind in (np.uint8, np.int32, np.float32, np.float64):
            np.save(folder / "typed.npy", pixels.astype(kind))
            assert cli.run(("predict", str(folder / "first"), str(folder / "typed.npy"))) == 0
            said.append(capsys.readouterr().out)
        assert len(set(said)) == 1

    def test_predict_a_picture(self, folder):
        pillow = pytest.importorskip("PIL.Image")
        pixels = np.random.default_rng(0).integers(0, 255, (28, 28), dtype=np.uint8)
        pillow.fromarray(pixels).save(folder / "one.png")
        result = pyconvopt("predict", "first", "one.png", cwd=folder)
        assert result.returncode == 0 and len(result.stdout.splitlines()) == 1

    def test_predict_a_picture_of_another_size(self, folder, monkeypatch, capsys):
        pillow = pytest.importorskip("PIL.Image")
        monkeypatch.chdir(folder)
        pillow.new("RGB", (40, 30)).save("wide.png")
        assert cli.run(("predict", "first", "wide.png")) == 1
        said = capsys.readouterr().err
        assert "wide.png is 30×40, the model takes 28×28: --resize" in said
        assert cli.run(("predict", "first", "wide.png", "--resize")) == 0
        assert len(capsys.readouterr().out.splitlines()) == 1

    def test_doctor(self, folder):
        result = pyconvopt("doctor", cwd=folder)
        assert result.returncode == 0, result.stderr
        assert torch.__version__ in result.stdout
        assert "instruction set" in result.stdout and "threads" in result.stdout

    def test_explain(self, folder):
        result = pyconvopt("explain", "--batch-size", "2", cwd=folder)
        assert result.returncode == 0, result.stderr
        assert "conv" in result.stdout

    def test_help(self, folder):
        result = pyconvopt("--help", cwd=folder)
        assert result.returncode == 0
        for command in ("train", "evaluate", "predict", "pictures", "explain", "doctor"):
            assert command in result.stdout

    @pytest.mark.parametrize(
        ("arguments", "status", "parts"),
        [
            ((), 2, ("Missing command",)),
            (("trane",), 2, ("No such command 'trane'",)),
            (("evaluate",), 2, ("Missing argument",)),
            (("evaluate", "nowhere"), 1, ("there is no model file nowhere",)),
            (("evaluate", "output"), 1, ("output is damaged or no safetensors file",)),
            (("predict", "first", "none.npy"), 1, ("there is no file none.npy",)),
            (("predict", "first", "output"), 1, ("neither a .npy array nor a picture",)),
            (("predict", "first", "first"), 1, ("first is a folder; wanted one picture",)),
            (("explain", "resnet18"), 2, ("the recipe is --recipe resnet18",)),
        ],
    )
    def test_refusals(self, refused, arguments, status, parts):
        refused(arguments, status, parts)
