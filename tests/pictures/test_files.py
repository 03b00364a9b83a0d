"""What is written: whole files or none, all pictures of a model, those of a run, TensorBoard's."""

from __future__ import annotations

import csv
import errno
import json
import pickle
import sys

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("matplotlib")

from pyconvopt import pictures
from pyconvopt.pictures import drawing
from pyconvopt.training import TensorBoard
from tests.pictures.networks import small, torch_small
from tests.tiny_data import write_tiny_set


def test_the_ending_names_the_format(tmp_path):
    for name, start in (
        ("a.png", b"\x89PNG"),
        ("b.svg", b"<?xml"),
        ("c.pdf", b"%PDF"),
        ("d", b"\x89PNG"),
    ):
        pictures.confusion_matrix([0, 1], [0, 1], path=tmp_path / "new folder" / name)
        assert (tmp_path / "new folder" / name).read_bytes().startswith(start)


def test_an_unknown_format_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"must end in one of .*\.png.*, got 'a\.word'"):
        pictures.confusion_matrix([0, 1], [0, 1], path=tmp_path / "a.word")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        pictures.confusion_matrix([0, 1], [0, 1], path=path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"] and path.read_bytes() == b"old"


def test_without_matplotlib(monkeypatch):
    class Missing:
        def find_spec(self, name, *arguments):
            if name == "matplotlib":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    with pytest.raises(ImportError, match=r'pip install "pyconvopt\[cli\]"'):
        drawing.new_figure(1, 1, "drawing")


def test_pyplot_is_left_alone():
    pictures.filters(small())
    plots = sys.modules.get("matplotlib.pyplot")
    assert plots is None or not plots.get_fignums()


def test_a_notebook_shows_a_figure_by_itself():
    drawn = pictures.filters(small()), pictures.schedule(0.1, steps_per_epoch=2, epochs=2)
    assert all(each._repr_png_().startswith(b"\x89PNG") for each in drawn)
    assert type(pickle.loads(pickle.dumps(drawn[0]))) is type(drawn[0])


class TestWriteAll:
    def test_everything_an_image_classifier_has(self, tmp_path):
        model = small()
        x, y = np.random.default_rng(0).random((30, 8, 8, 1), np.float32), np.arange(30) % 3
        history = model.fit(x, y, epochs=1, verbose=0)
        paths = pictures.write_all(model, x, y, tmp_path / "all", history=history)
        assert [path.name for path in paths] == [
            "curves.png",
            "confusion_matrix.png",
            "mistakes.png",
            "filters.png",
            "feature_maps.png",
            "histograms.png",
        ]
        assert sorted(paths) == sorted((tmp_path / "all").iterdir())
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)

    def test_torch_models_and_ones_without_convolutions(self, tmp_path):
        x, y = torch.rand(6, 3, 8, 8), torch.arange(6) % 3
        names = [path.name for path in pictures.write_all(torch_small(), x, y, tmp_path)]
        assert names[1:4] == ["mistakes.png", "filters.png", "feature_maps.png"]
        flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
        names = [path.name for path in pictures.write_all(flat, x, y, tmp_path / "flat")]
        assert names == ["confusion_matrix.png", "mistakes.png", "histograms.png"]


def test_a_run_with_a_schedule(tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    from pyconvopt.training.recipes import Recipe
    from pyconvopt.training.run import run_recipe

    write_tiny_set(tmp_path)
    monkeypatch.setenv("PYCONVOPT_DATA", str(tmp_path))
    recipe = Recipe.load("seed")
    recipe.table["schedule"] = {"name": "cosine", "lr": 0.01, "n": 1}
    recipe.table["fit"] |= {"epochs": 2, "batch_size": 5}
    drawn = []
    draw = pictures.schedule

    def noted(*arguments, **options):
        drawn.append(draw(*arguments, **options))
        return drawn[-1]

    monkeypatch.setattr(pictures, "schedule", noted)
    folder = run_recipe(recipe, tmp_path / "run", verbose=0).folder
    assert (folder / "schedule.png").read_bytes().startswith(b"\x89PNG")
    steps, rates = drawn[0].axes[0].lines[0].get_data()
    assert list(steps) == list(range(9))  # twenty images, five a step, two epochs
    history = json.loads((folder / "history.json").read_text())["history"]
    # An epoch's rate is that of its last step.
    assert history["learning_rate"] == pytest.approx([rates[3], rates[7]])
    with open(folder / "history.csv", newline="") as file:
        written = [float(row["learning_rate"]) for row in csv.DictReader(file)]
    assert written == history["learning_rate"]


class TestTensorBoard:
    def test_gradients_and_images(self, tmp_path):
        pytest.importorskip("tensorboard", reason="needs the extra 'tensorboard'")
        events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        model = small()
        x, y = np.random.default_rng(0).random((12, 8, 8, 1), np.float32), np.arange(12) % 3
        board = TensorBoard(
            tmp_path,
            histogram_freq=2,
            write_grads=True,
            write_images=True,
            confusion=(x, y),
            class_names=["a", "b", "c"],
        )
        model.fit(x, y, epochs=3, batch_size=12, verbose=0, callbacks=[board])
        found = events.EventAccumulator(str(tmp_path / "train"), {"histograms": 0, "images": 0})
        found.Reload()
        tags = found.Tags()
        weights = [name for name, _ in model.named_parameters()]
        assert sorted(tags["histograms"]) == sorted(
            [*weights, *(f"gradients/{n}" for n in weights)]
        )
        gradient = found.Histograms("gradients/conv2d.weight")
        assert [event.step for event in gradient] == [0, 2]
        last = gradient[-1].histogram_value
        assert last.num == 36
        assert last.max == pytest.approx(float(model.layers[0].weight.grad.max()))
        assert sorted(tags["images"]) == ["confusion_matrix", "filters"]
        image = found.Images("confusion_matrix")
        assert [event.step for event in image] == [0, 2] and image[0].width > 300

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"write_grads": True}, "every histogram_freq epochs"),
            ({"confusion": ([1], [1])}, "every histogram_freq epochs"),
            (
                {"confusion": ([1],), "histogram_freq": 1},
                r"confusion must be \(x, y\), got 1 parts",
            ),
        ],
    )
    def test_refusals(self, options, message):
        pytest.importorskip("tensorboard", reason="needs the extra 'tensorboard'")
        with pytest.raises(ValueError, match=message):
            TensorBoard(**options)
