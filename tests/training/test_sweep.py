"""Successive halving: who trains how long, who wins, and that stopping in between changes nothing."""

from __future__ import annotations

import csv
import sys
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from pyconvopt import averaging, layers, models, optimizers, schedules
from pyconvopt.data.rows import Selected
from pyconvopt.training import EarlyStopping, LambdaCallback, ReduceLROnPlateau, Trainer, sweep
from pyconvopt.training.candidates import rungs
from pyconvopt.training.recipes import Recipe
from pyconvopt.training.sweep_optuna import drawn
from tests.small_models import points
from tests.tiny_data import write_tiny_set

HUGE = 1e300  # the loss is no number after one step
RATES = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0, HUGE]


def make(rate: float) -> models.Sequential:
    model = models.Sequential(
        [
            layers.Dense(8, "tanh", input_shape=(2,)),
            layers.Dropout(0.1),
            layers.Dense(2, activation="softmax"),
        ]
    )
    model.compile(
        lambda parameters: optimizers.SGD(parameters, rate, momentum=0.9),
        "sparse_categorical_crossentropy",
        ["accuracy"],
    )
    return model


def run(**options):
    return sweep(
        make,
        {"rate": RATES},
        points(200),
        validation=points(100, 1),
        verbose=0,
        **{"epochs": 9, "monitor": "val_loss", **options},
    )


def test_plan():
    assert rungs(9, 9) == [(9, 1), (3, 3), (1, 9)]
    assert rungs(10, 9) == [(10, 1), (4, 3), (2, 9)]
    assert rungs(1, 5) == [(1, 5)] and rungs(3, 1) == [(3, 1)]
    assert rungs(8, 8, 2) == [(8, 1), (4, 2), (2, 4), (1, 8)]


@pytest.mark.filterwarnings("ignore:the loss is")
def test_the_best_trains_longest(tmp_path):
    state = torch.get_rng_state()
    result = run()
    assert torch.equal(torch.get_rng_state(), state)
    assert [row["epochs"] for row in result.rows] == [9, 3, 3] + [1] * 6
    assert 0.01 <= result.best["rate"] <= 1.0
    assert result.rows[-1]["rate"] == HUGE and result.rows[-1]["val_loss"] is None
    losses = [row["val_loss"] for row in result.rows[3:-1]]
    assert losses == sorted(losses)
    assert "| 1e+300 | 1 | failed |" in result.markdown()
    result.to_csv(tmp_path / "sweep.csv")
    with open(tmp_path / "sweep.csv", newline="") as file:
        assert [float(row["rate"]) for row in csv.DictReader(file)] == [
            row["rate"] for row in result.rows
        ]


@pytest.mark.filterwarnings("ignore:the loss is")
def test_a_candidate_that_went_on_is_one_that_never_stopped():
    result = run()
    torch.manual_seed(0)
    alone = make(**result.best)
    alone.fit(*points(200), epochs=9, seed=0, verbose=0, validation_data=points(100, 1))
    for got, wanted in zip(result.model.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("frequency", "rungs"), [(2, [9, 4, 4, 2]), (4, [9, 4, 4, 4]), ([5], [9, 5, 5, 5])]
)
@pytest.mark.parametrize("sampler", ["grid", "optuna"])
@pytest.mark.filterwarnings("ignore:the loss is")
def test_a_rung_ends_with_a_validation(frequency, rungs, sampler):
    if sampler == "optuna":
        pytest.importorskip("optuna")
    result = run(validation_freq=frequency, monitor="val_accuracy", sampler=sampler)
    assert result.rows[0]["val_accuracy"] > 0.8
    ends = [row["epochs"] for row in result.rows if row["val_accuracy"] is not None]
    assert set(ends) <= set(rungs) if sampler == "optuna" else ends[:4] == rungs


def test_without_a_validation_it_says_so():
    with pytest.raises(ValueError, match=r"no 'val_loss', only .*: give a smaller validation_freq"):
        run(validation_freq=20)


def test_epochs_are_those_before_a_callback_stopped_it():
    seen = []
    callbacks = [
        EarlyStopping("loss", patience=1, min_delta=100),
        LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch)),
    ]
    space, data = {"rate": [1e-6, 0.3, 1e-5]}, {"data": points(200), "validation": points(100, 1)}
    result = sweep(make, space, **data, callbacks=callbacks, verbose=0)
    assert result.best == {"rate": 0.3}
    assert [row["epochs"] for row in result.rows] == [2, 2, 2]
    assert seen == [0, 1] * 3


@pytest.mark.parametrize(
    "options",
    [
        {"schedule": schedules.Cosine(0.3, 1.0).over_run()},
        {"callbacks": lambda: [averaging.EMA(0.9)]},
        {"callbacks": lambda: [averaging.SWA(0.5)]},
        {"callbacks": lambda: [ReduceLROnPlateau("loss", patience=1, min_delta=10)]},
        {"callbacks": lambda: [EarlyStopping(patience=2, min_delta=10, restore_best_weights=True)]},
    ],
)
def test_a_survivor_trained_as_a_single_run_would(options):
    def made(width):
        torch.manual_seed(width)
        model = torch.nn.Sequential(
            torch.nn.Linear(2, width), torch.nn.BatchNorm1d(width), torch.nn.Linear(width, 2)
        )
        given = {name: each() if name == "callbacks" else each for name, each in options.items()}
        return Trainer(model, "sgd", metrics=["accuracy"], **given)

    data = {"validation": points(100, 1), "epochs": 5, "seed": 0, "verbose": 0}
    result = sweep(made, {"width": [2, 3, 4, 5]}, points(200), monitor="val_loss", **data)
    torch.manual_seed(0)
    alone = made(**result.best)
    history = alone.fit(points(200), **data)
    for name, value in alone.model.state_dict().items():
        assert torch.equal(value, result.model.state_dict()[name]), name
    assert result.rows[0]["val_loss"] == history.history["val_loss"][-1]


def test_recipes_hold_out_training_images(tmp_path, monkeypatch, capsys):
    write_tiny_set(tmp_path, 100, 10)
    monkeypatch.setenv("PYCONVOPT_DATA", str(tmp_path))
    recipe = Recipe.load("seed")
    recipe.set("layers.0.filters", 4)
    seen = []
    fit = Trainer.fit

    def spy(self, data, **options):
        seen.append((data.samples, len(options["validation"][0]), data.batch_size))
        return fit(self, data, **options)

    monkeypatch.setattr(Trainer, "fit", spy)
    space = {"compile.learning_rate": [1e-3, 1e-7], "compile.optimizer": ["adam", "sgd"]}
    result = sweep(recipe, space, epochs=3)
    assert seen == [(90, 10, 64)] * 6
    assert set(result.best) == set(space) and len(result.rows) == 4
    assert result.trainer.optimizer.param_groups[0]["lr"] == result.best["compile.learning_rate"]
    assert len(capsys.readouterr().out.splitlines()) == 6
    for space, message in (
        ({"fit.epochs": [1]}, "a sweep changes compile, layers, .* of a recipe, not 'fit.epochs'"),
        ({"augment.0.size": [1]}, r"the recipe has no \[\[augment\]\]"),
        ({"fit.batch_size": [8, 0]}, "fit.batch_size must be 1 or more, got 0"),
        ({"compile.learning_rates": [1]}, "did you mean 'learning_rate'"),
    ):
        with pytest.raises(ValueError, match=message):
            sweep(recipe, space)


@pytest.fixture
def fits(monkeypatch):
    """What each `fit` of a sweep is given: the loader and the options."""
    seen: list[tuple[Any, dict[str, Any]]] = []
    fit = Trainer.fit

    def spy(self, data, **options):
        seen.append((data, options))
        return fit(self, data, **options)

    monkeypatch.setattr(Trainer, "fit", spy)
    return seen


def sorted_recipe(path, labels, **section) -> Recipe:
    """A recipe on images that lie class by class."""
    x = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8), dtype=np.uint8)
    np.savez(path, x_train=x, y_train=labels, x_test=x, y_test=labels)
    recipe = Recipe.load("seed")
    recipe.table["data"] |= {"name": str(path), **section}
    recipe.table["layers"] = [{"type": "Flatten"}, {"type": "Dense", "units": 3}]
    recipe.set("compile.loss", "cross_entropy")
    return recipe


@pytest.mark.parametrize(
    ("in_memory", "kinds"), [(True, (torch.Tensor, np.ndarray)), (False, (Selected, Selected))]
)
def test_every_class_is_held_out(tmp_path, fits, in_memory, kinds):
    recipe = sorted_recipe(tmp_path / "x.npz", np.repeat([0, 1, 2], 20), in_memory=in_memory)
    sweep(recipe, {"compile.learning_rate": [1e-3]}, epochs=1, verbose=0)
    ((loader, options),) = fits
    images, labels = options["validation"]
    assert loader.samples == 54 and np.bincount(labels).tolist() == [2, 2, 2]
    assert isinstance(loader.x, kinds[0]) and isinstance(images, kinds[1])


def test_of_targets_that_are_no_classes_the_end_is_held_out(tmp_path, fits):
    targets = np.linspace(0, 1, 60, dtype=np.float32)
    recipe = sorted_recipe(tmp_path / "x.npz", targets)
    recipe.table["compile"] |= {"loss": "mse", "metrics": []}
    recipe.table["layers"][1]["units"] = 1
    space = {"compile.learning_rate": [1e-5]}
    sweep(recipe, space, epochs=1, monitor="val_loss", verbose=0)
    np.testing.assert_array_equal(fits[0][1]["validation"][1], targets[54:])


def test_batches_and_augmentation_of_recipes(tmp_path, monkeypatch):
    write_tiny_set(tmp_path, 100, 10)
    monkeypatch.setenv("PYCONVOPT_DATA", str(tmp_path))
    recipe = Recipe.load("seed")
    recipe.set("layers.0.filters", 4)
    recipe.table["augment"] = [{"type": "RandomCrop", "padding": 1}]
    seen = []
    fit = Trainer.fit

    def spy(self, data, **options):
        padding = data.augment.transforms[0].padding
        seen.append((data.batch_size, padding, options["callbacks"][-1].until))
        return fit(self, data, **options)

    monkeypatch.setattr(Trainer, "fit", spy)
    space = {"fit.batch_size": [20, 45], "augment.0.padding": [1, 2]}
    result = sweep(recipe, space, epochs=3, verbose=0)
    assert seen[:4] == [(20, 1, 1), (20, 2, 1), (45, 1, 1), (45, 2, 1)]
    best = (result.best["fit.batch_size"], result.best["augment.0.padding"], 3)
    assert len(seen) == 6 and best in seen[4:]
    seen.clear()
    sweep(recipe, {"augment.0.padding": [1]}, epochs=1, batch_size=30, verbose=0)
    assert seen == [(30, 1, 1)]


class TestOptuna:
    SPACE: ClassVar[dict[str, Any]] = {"rate": {"low": 1e-6, "high": 1.0, "log": True}}

    def run(self, **options):
        pytest.importorskip("optuna", reason="needs the extra 'optuna'")
        options = {"epochs": 9, "monitor": "val_loss", "trials": 8, **options}
        data = {"data": points(200), "validation": points(100, 1)}
        return sweep(make, self.SPACE, **data, sampler="optuna", verbose=0, **options)

    def test_draws_from_a_range_and_gives_up_early(self):
        state = torch.get_rng_state()
        result = self.run()
        assert torch.equal(torch.get_rng_state(), state)
        assert len(result.rows) == 8
        assert all(1e-6 <= row["rate"] <= 1.0 for row in result.rows)
        assert len({row["rate"] for row in result.rows}) == 8
        epochs = [row["epochs"] for row in result.rows]
        assert epochs[0] == 9 and set(epochs) <= {1, 3, 9} and 1 in epochs
        assert result.rows == self.run().rows  # the same seed draws the same
        assert result.rows != self.run(seed=1).rows

    def test_the_best_is_one_that_never_stopped(self):
        result = self.run()
        torch.manual_seed(0)
        alone = make(**result.best)
        alone.fit(*points(200), epochs=9, seed=0, verbose=0, validation_data=points(100, 1))
        for got, wanted in zip(result.model.get_weights(), alone.get_weights(), strict=True):
            np.testing.assert_array_equal(got, wanted)

    @pytest.mark.filterwarnings("ignore:the loss is")
    def test_lists_and_failures(self, monkeypatch):
        monkeypatch.setattr(self.__class__, "SPACE", {"rate": [1e30, 0.1]})
        result = self.run(trials=6, epochs=1)
        assert result.best == {"rate": 0.1}
        assert {row["rate"] for row in result.rows} == {0.1, 1e30}

    def test_whole_numbers(self):
        optuna = pytest.importorskip("optuna", reason="needs the extra 'optuna'")
        trial = optuna.trial.FixedTrial({"units": 4, "rate": 0.5})
        got = drawn(trial, "units", {"low": 2, "high": 8, "step": 2})
        assert got == 4 and isinstance(got, int)
        assert drawn(trial, "rate", {"low": 0, "high": 1.0}) == 0.5

    def test_refusals(self, monkeypatch):
        pytest.importorskip("optuna", reason="needs the extra 'optuna'")
        for space, message in (
            ({}, "nothing to sweep"),
            ({"rate": {"low": 1.0, "hgih": 2.0}}, "did you mean 'high'"),
            ({"rate": {"low": 1.0}}, "must be a list, or a range such as"),
            ({"rate": {"low": 2.0, "high": 1.0}}, "must be a list, or a range such as"),
            ({"rate": "0.1"}, "must be a list, or a range such as"),
        ):
            with pytest.raises(ValueError, match=message):
                sweep(make, space, points(), sampler="optuna")
        monkeypatch.setitem(sys.modules, "optuna", None)
        with pytest.raises(ImportError, match=r'pip install "pyconvopt\[optuna\]"'):
            sweep(make, self.SPACE, points(), sampler="optuna")


@pytest.mark.filterwarnings("ignore:the loss is")
def test_refusals():
    for space, message in (({}, "nothing to sweep"), ({"rate": 0.1}, "must be a list")):
        with pytest.raises(ValueError, match=message):
            sweep(make, space, points())
    with pytest.raises(ValueError, match="give no 'val_f1', only loss, accuracy, val_loss"):
        run(monitor="val_f1")
    with pytest.raises(ValueError, match="factor must be a whole number >= 2, got 1"):
        run(factor=1)
    with pytest.raises(ValueError, match="a sweep takes no checkpoint"):
        run(checkpoint="folder")
    with pytest.raises(ValueError, match="unknown sampler 'optun': did you mean 'optuna'"):
        run(sampler="optun")
    with pytest.raises(ValueError, match="trials belong to the sampler 'optuna'"):
        run(trials=3)
    with pytest.raises(ValueError, match="a range needs the sampler 'optuna'"):
        sweep(make, {"rate": {"low": 0.1, "high": 1.0}}, points())
    with pytest.raises(RuntimeError, match="every candidate failed, the first so: the loss is"):
        sweep(make, {"rate": [HUGE]}, points(200), validation=points(9), verbose=0)
