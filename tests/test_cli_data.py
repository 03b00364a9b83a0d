"""Training from the command line on data of one's own, and asking the trained model."""

from __future__ import annotations

import errno
import json
from typing import ClassVar

import numpy as np
import pytest

from pyconvopt import cli, models
from pyconvopt import pictures as drawing
from pyconvopt.training import History
from pyconvopt.training.recipes import Recipe

for package in ("typer", "rich", "matplotlib", "safetensors"):
    pytest.importorskip(package, reason="the command line needs the extra 'cli'")

CLASSES = ("dark", "light", "striped")

RECIPE = """
[data]
name = "fashion-mnist"
scale = 1.0
standardize = true
image_size = [14, 12]

[fit]
epochs = 8
batch_size = 8
seed = 0
validation = "test"

[compile]
optimizer = "adam"
learning_rate = 0.01
loss = "sparse_categorical_crossentropy"
metrics = ["accuracy"]

[averaging]
name = "ema"
decay = 0.5

[[augment]]
type = "RandomHorizontalFlip"

[model]
architecture = "resnet_cifar"
depth = 8
width = 4
"""


def pictures(count: int, size: tuple[int, int] = (14, 12)) -> tuple[np.ndarray, np.ndarray]:
    """Pictures that are dark, light, or striped, in turn."""
    generator = np.random.default_rng(count)
    labels = np.arange(count) % 3
    images = generator.integers(0, 40, (count, *size), dtype=np.uint8)
    images[labels == 1] += 200
    images[labels == 2, ::2] += 200
    return images, labels


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a recipe and pictures of two sizes in photos/."""
    pillow = pytest.importorskip("PIL.Image", reason="pictures need the extra 'images'")
    (tmp_path / "small.toml").write_text(RECIPE)
    for half, count, size in (("train", 60, (14, 12)), ("test", 12, (28, 24))):
        for number, (image, label) in enumerate(zip(*pictures(count, size), strict=True)):
            path = tmp_path / "photos" / half / CLASSES[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pillow.fromarray(image).save(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestPictures:
    def test_results_that_cannot_be_written(self, folder, monkeypatch, capsys):
        def full(*arguments):
            raise OSError(errno.ENOSPC, "No space left on device", "history.json")

        command = ["train", "--recipe", "small.toml", "--data", "photos", "--epochs", "1"]
        with monkeypatch.context() as changed:
            changed.setattr(History, "to_json", full)
            assert cli.run([*command, "--out", "run"]) != 0
        said = " ".join(capsys.readouterr().err.split())
        assert "history.json" in said and "train --resume run writes them" in said
        assert cli.run(["train", "--resume", "run"]) == 0
        assert (folder / "run" / "weights.safetensors").exists()

    def test_trained_evaluated_and_asked(self, folder, capsys, monkeypatch):
        options = ("--recipe", "small.toml", "--data", "photos", "--out", "run", "--json")
        assert cli.run(("train", *options)) == 0
        trained = json.loads(capsys.readouterr().out)["test"]
        assert trained["accuracy"] > 0.6
        section = Recipe.load("run/recipe.toml").table["data"]
        assert section["classes"] == list(CLASSES)
        assert section["name"] == str(folder / "photos")

        # From another folder, with the whole path in the recipe.
        (folder / "elsewhere").mkdir()
        monkeypatch.chdir(folder / "elsewhere")
        assert cli.run(("evaluate", "../run", "--json")) == 0
        assert json.loads(capsys.readouterr().out) == pytest.approx(trained)

        # A raw picture of another size; then an array of raw pixels.
        picture = next((folder / "photos" / "test" / "light").iterdir())
        assert cli.run(("predict", "../run", str(picture))) == 0
        index, name, share = capsys.readouterr().out.split()
        assert index == "0" and name in CLASSES and 0 < float(share) <= 1
        np.save("x.npy", pictures(6)[0])
        assert cli.run(("predict", "../run", "x.npy", "--out", "p.npy")) == 0
        assert len(capsys.readouterr().out.splitlines()) == 6
        assert np.load("p.npy").shape == (6, 3)

    def test_a_picture_cut_short(self, folder, capsys):
        options = ("--data", "photos", "--epochs", "1", "--out", "run")
        assert cli.run(("train", "--recipe", "small.toml", *options)) == 0
        picture = next((folder / "photos" / "test" / "light").iterdir())
        (folder / "cut.png").write_bytes(picture.read_bytes()[:-60])
        capsys.readouterr()
        assert cli.run(("predict", "run", "cut.png")) == 1
        assert capsys.readouterr().err.startswith("error: cut.png is damaged: ")

    def test_fewer_classes_than_outputs(self, folder, capsys):
        options = ("--data", "photos", "--epochs", "4", "--out", "run")
        more = ("--set", "model.num_classes=10")
        assert cli.run(("train", "--recipe", "small.toml", *options, *more)) == 0
        picture = next((folder / "photos" / "test" / "light").iterdir())
        capsys.readouterr()
        assert cli.run(("predict", "run", str(picture))) == 0
        assert capsys.readouterr().out.split()[1] in CLASSES
        assert cli.run(("pictures", "run")) == 0

    def test_damaged_pictures_are_one_line(self, folder, capsys):
        (folder / "photos" / "train" / "dark" / "bad.png").write_bytes(b"no picture")
        assert cli.run(("train", "--recipe", "small.toml", "--data", "photos")) == 1
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: ") and "bad.png cannot be read" in error
        assert "\n" not in error


def test_npz(folder, capsys):
    x, y = pictures(60)
    np.savez("pictures.npz", x=x, y=y)
    options = ("--recipe", "small.toml", "--data", "pictures.npz", "--set", "data.test_share=0.5")
    assert cli.run(("train", *options, "--epochs", "1", "--out", "run")) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("test accuracy: ")
    assert cli.run(("train", "--recipe", "small.toml", "--data", "none.npz")) == 2
    assert "there is no file" in capsys.readouterr().err


@pytest.mark.parametrize("way", ["--data", "--set", "recipe"])
def test_a_run_is_evaluated_from_another_folder(folder, capsys, monkeypatch, way):
    x, y = pictures(60)
    np.savez("pictures.npz", x=x, y=y)
    changes = {"--data": ("--data", "pictures.npz"), "--set": ("--set", "data.name=pictures.npz")}
    if way == "recipe":
        text = RECIPE.replace('"fashion-mnist"', '"pictures.npz"')
        (folder / "small.toml").write_text(text)
    options = ("--recipe", "small.toml", "--epochs", "1", "--out", "run")
    assert cli.run(("train", *options, *changes.get(way, ()))) == 0
    capsys.readouterr()
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert cli.run(("evaluate", "../run")) == 0


class TestModelFile:
    """A model file that was taken away from its run folder."""

    @pytest.fixture
    def lone(self, folder, capsys):
        """What its run came to on the test data."""
        x, y = pictures(60)
        np.savez("pictures.npz", x=x, y=y)
        options = ("--recipe", "small.toml", "--data", "pictures.npz", "--epochs", "4", "--json")
        changes = ("--set", 'data.classes=["dark", "light", "striped"]')
        assert cli.run(("train", *options, *changes, "--out", "run")) == 0
        (folder / "lone").mkdir()
        (folder / "run" / "weights.safetensors").rename("lone/model.safetensors")
        # Of another run: its scale is not this model's.
        (folder / "lone" / "recipe.toml").write_text(RECIPE.replace("scale = 1.0", "scale = 9.0"))
        return json.loads(capsys.readouterr().out)["test"]

    def test_it_says_how_its_images_are_made(self, lone, capsys):
        file = "lone/model.safetensors"
        assert cli.run(("evaluate", file, "--data", "pictures.npz", "--json")) == 0
        assert json.loads(capsys.readouterr().out) == pytest.approx(lone)
        assert cli.run(("evaluate", file, "--data", "pictures.npz", "--scale", "90", "--json")) == 0
        assert json.loads(capsys.readouterr().out) != pytest.approx(lone)
        np.save("x.npy", pictures(6)[0])
        assert cli.run(("predict", file, "x.npy")) == 0
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert {row[1] for row in rows} <= set(CLASSES)
        assert cli.run(("evaluate", file)) == 2
        assert "name the data, --data NAME" in capsys.readouterr().err

    def test_one_that_does_not_say_it(self, lone, capsys):
        models.load("lone/model.safetensors").save("again.safetensors")
        np.save("x.npy", pictures(6)[0])
        for command in (
            ("predict", "again.safetensors", "x.npy"),
            ("evaluate", "again.safetensors", "--data", "pictures.npz"),
        ):
            assert cli.run(command) == 2
            assert "give --scale" in capsys.readouterr().err
        options = ("--data", "pictures.npz", "--scale", "1", "--json")
        assert cli.run(("evaluate", "again.safetensors", *options)) == 0
        assert json.loads(capsys.readouterr().out) == pytest.approx(lone)


def test_find_lr_and_sweep_take_such_recipes(folder, capsys):
    x, y = pictures(60)
    np.savez("pictures.npz", x=x, y=y)
    options = ("--recipe", "small.toml", "--data", "pictures.npz")
    assert cli.run(("find-lr", *options, "--steps", "10")) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("learning rate: ")
    over = "model.width=[2, 4]"
    assert cli.run(("sweep", *options, "--over", over, "--epochs", "1")) == 0
    assert "--set model.width=" in capsys.readouterr().out.splitlines()[-1]


class TestDrawn:
    """The pictures of a run, of arrays and of pictures that stay on the disk."""

    DRAWN: ClassVar[tuple[str, ...]] = (
        *("curves", "confusion_matrix", "mistakes"),
        *("filters", "feature_maps", "histograms"),
    )

    @pytest.mark.parametrize("in_memory", ["true", "false"])
    def test_of_a_run(self, folder, capsys, in_memory):
        options = ("--data", "photos", "--epochs", "1", "--set", f"data.in_memory={in_memory}")
        assert cli.run(("train", "--recipe", "small.toml", *options, "--out", "run")) == 0
        capsys.readouterr()
        assert cli.run(("pictures", "run")) == 0
        wanted = [f"run/pictures/{name}.png" for name in self.DRAWN]
        assert capsys.readouterr().out.splitlines() == [f"written: {path}" for path in wanted]
        assert all((folder / path).read_bytes().startswith(b"\x89PNG") for path in wanted)
        assert cli.run(("pictures", "run", "--out", "drawn", "--json")) == 0
        paths = json.loads(capsys.readouterr().out)["paths"]
        assert paths == [f"drawn/{name}.png" for name in self.DRAWN]

    def test_names_and_history_are_the_runs(self, folder, monkeypatch):
        options = ("--data", "photos", "--epochs", "2", "--out", "run")
        assert cli.run(("train", "--recipe", "small.toml", *options)) == 0
        given = {}
        monkeypatch.setattr(drawing, "write_all", lambda *_, **options: given.update(options) or [])
        assert cli.run(("pictures", "run")) == 0
        assert list(given["class_names"]) == list(CLASSES)
        assert given["history"].to_json() == History.from_json("run/history.json").to_json()
        assert given["history"].epoch == [0, 1] and len(given["history"].history["loss"]) == 2

    def test_of_a_model_file(self, folder, capsys):
        x, y = pictures(30)
        np.savez("pictures.npz", x=x, y=y)
        options = ("--data", "pictures.npz", "--epochs", "1", "--out", "run")
        assert cli.run(("train", "--recipe", "small.toml", *options)) == 0
        (folder / "run" / "weights.safetensors").rename("model.safetensors")
        capsys.readouterr()
        assert cli.run(("pictures", "model.safetensors")) == 2
        assert "a model file has no recipe beside it: name the data" in capsys.readouterr().err
        assert cli.run(("pictures", "model.safetensors", "--data", "pictures.npz")) == 0
        assert len(list((folder / "pictures").glob("*.png"))) == 5  # no curves

    def test_a_damaged_history_is_one_line(self, folder, capsys):
        options = ("--data", "photos", "--epochs", "1", "--out", "run")
        assert cli.run(("train", "--recipe", "small.toml", *options)) == 0
        for content in ("{", "[]", '{"epoch": []}'):
            (folder / "run" / "history.json").write_text(content)
            capsys.readouterr()
            assert cli.run(("pictures", "run")) == 1
            said = capsys.readouterr().err.strip()
            assert said.startswith("error: run/history.json holds no history") and "\n" not in said
