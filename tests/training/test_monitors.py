"""The callbacks that decide, beside Keras': the same numbers in, the same decisions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pyconvopt import callbacks as by_keras_place
from pyconvopt import models
from pyconvopt.training import Callback, EarlyStopping, ModelCheckpoint, ReduceLROnPlateau, Trainer
from tests.small_models import dense, points, sgd

pytestmark = pytest.mark.filterwarnings("ignore:saved without", "ignore:__array__")

# Each a course of a loss; NaN, plateaus and steps of exactly `min_delta` included.
COURSES = [
    [3.0, 2.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.4],
    [1.0, 1.5, 1.25, 1.125, 1.0, 0.75, 0.75, 0.875, 0.5, 0.75, 0.75, 0.75],
    [2.0, float("nan"), 1.0, 1.5, float("nan"), 2.0, 2.0, 2.0, 0.0, 1.0, 1.0, 1.0],
    [float("nan")] * 6,
    list(np.random.default_rng(0).integers(0, 8, 12) / 8),
    list(np.random.default_rng(1).integers(0, 8, 12) / 8),
]


class Driven:
    """A callback that is given the numbers of a course, and what it decides."""

    def __init__(self, callback, model, course):
        self.stopped, self.rates = None, []
        callback.on_train_begin()
        for epoch, value in enumerate(course):
            callback.on_epoch_begin(epoch)
            callback.on_epoch_end(epoch, {"val_loss": float(value), "val_accuracy": -float(value)})
            self.rates.append(self.rate(model, callback))
            if model.stop_training and self.stopped is None:
                self.stopped = epoch
                break

    @staticmethod
    def rate(model, callback):
        if hasattr(callback, "trainer"):
            return callback.trainer.optimizer.param_groups[0]["lr"]
        return float(model.optimizer.learning_rate)


def ours(callback, course) -> Driven:
    model = dense(optimizer=lambda parameters: torch.optim.SGD(parameters, 0.5))
    trainer = model.trainer()
    trainer.optimizer = torch.optim.SGD(model.parameters(), 0.5)
    callback.model, callback.trainer, callback.params = model, trainer, {"validation": True}
    model.stop_training = False
    return Driven(callback, model, course)


def theirs(keras, callback, course) -> Driven:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, "softmax")])
    model.compile(
        keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    model.train_on_batch(np.zeros((1, 2)), np.zeros(1))
    model.optimizer.learning_rate = 0.5
    model.stop_training = False
    callback.set_model(model)
    return Driven(callback, model, course)


@pytest.fixture(scope="module")
def keras():
    return pytest.importorskip("keras", reason="parity needs Keras 3")


class TestParityWithKeras:
    @pytest.mark.parametrize("course", COURSES)
    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"patience": 1},
            {"patience": 2, "min_delta": 0.125},
            {"patience": 2, "baseline": 0.75},
            {"patience": 3, "start_from_epoch": 2},
            {"monitor": "val_accuracy", "mode": "max", "patience": 2},
        ],
    )
    def test_early_stopping(self, keras, course, settings):
        mine, other = EarlyStopping(**settings), keras.callbacks.EarlyStopping(**settings)
        assert ours(mine, course).stopped == theirs(keras, other, course).stopped
        assert mine.stopped_epoch == other.stopped_epoch and mine.best_epoch == other.best_epoch

    @pytest.mark.parametrize("course", COURSES)
    @pytest.mark.parametrize(
        "settings",
        [
            {"patience": 1},
            {"patience": 2, "factor": 0.5, "min_delta": 0.125},
            {"patience": 1, "factor": 0.5, "cooldown": 2},
            {"patience": 1, "factor": 0.5, "min_lr": 0.2},
            {"patience": 2, "monitor": "val_accuracy", "mode": "max", "min_delta": 0.0},
        ],
    )
    def test_reduce_on_plateau(self, keras, course, settings):
        mine = ours(ReduceLROnPlateau(**settings), course)
        other = theirs(keras, keras.callbacks.ReduceLROnPlateau(**settings), course)
        assert mine.rates == pytest.approx(other.rates, rel=1e-6)

    @pytest.mark.parametrize("course", COURSES)
    @pytest.mark.parametrize(
        "settings", [{}, {"save_best_only": True, "initial_value_threshold": 0.6}]
    )
    def test_model_checkpoint(self, keras, course, settings, tmp_path):
        pytest.importorskip("h5py")
        mine = ModelCheckpoint(tmp_path / "{epoch}.safetensors", **settings)
        other = keras.callbacks.ModelCheckpoint(
            str(tmp_path / "{epoch}.weights.h5"), save_weights_only=True, **settings
        )
        ours(mine, course), theirs(keras, other, course)
        saved = {
            suffix: {f.name.split(".")[0] for f in tmp_path.glob(f"*.{suffix}")}
            for suffix in ("safetensors", "h5")
        }
        assert saved["safetensors"] == saved["h5"]

    def test_the_rate_is_in_the_history(self, keras):
        x, y = points()
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, "softmax")])
        model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
        mine = dense(optimizer=lambda parameters: torch.optim.SGD(parameters, 0.5), metrics=None)
        for make in (
            lambda place: place.LearningRateScheduler(lambda epoch, rate: rate * 0.5),
            lambda place: place.ReduceLROnPlateau("loss", patience=1),
        ):
            wanted = model.fit(x, y, epochs=2, verbose=0, callbacks=[make(keras.callbacks)])
            got = mine.fit(x, y, epochs=2, verbose=0, callbacks=[make(by_keras_place)])
            assert set(got.history) == set(wanted.history)
            assert got.history["learning_rate"] == wanted.history["learning_rate"]


class TestModelCheckpoint:
    def test_the_best_whole_model(self, tmp_path):
        path = tmp_path / "best.safetensors"
        model = dense(optimizer=sgd)
        kept = []

        class Keep(Callback):
            def on_epoch_end(self, epoch, logs=None):
                logs["val_loss"] = [2.0, 1.0, 3.0][epoch]
                kept.append(model.get_weights()[0])

        model.fit(
            *points(),
            epochs=3,
            verbose=0,
            callbacks=[Keep(), ModelCheckpoint(path, save_best_only=True)],
        )
        np.testing.assert_array_equal(models.load(path).get_weights()[0], kept[1])

    def test_every_so_many_batches_and_names(self, tmp_path):
        every = ModelCheckpoint(tmp_path / "{epoch}-{batch}.safetensors", save_freq=3)
        dense().fit(*points(), batch_size=16, epochs=2, verbose=0, callbacks=[every])
        assert sorted(file.name for file in tmp_path.iterdir()) == [
            "1-3.safetensors",
            "2-2.safetensors",
        ]

    def test_weights_of_any_module(self, tmp_path):
        load_model = pytest.importorskip("safetensors.torch").load_model
        model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        save = ModelCheckpoint(tmp_path / "{epoch:02d}-{loss:.1f}.safetensors")
        x, y = points()
        history = Trainer(model, callbacks=[save]).fit((x, y), verbose=0)
        path = tmp_path / f"01-{history.history['loss'][0]:.1f}.safetensors"
        twin = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        load_model(twin, path)
        assert torch.equal(twin[0].weight, model[0].weight)
        assert torch.equal(twin[1].running_var, model[1].running_var)

    def test_refusals(self, tmp_path):
        with pytest.raises(ValueError, match="names 'val_los', but the logs hold loss, accuracy"):
            dense().fit(*points(), verbose=0, callbacks=[ModelCheckpoint(tmp_path / "{val_los}")])
        with pytest.raises(ValueError, match="must be 'epoch', a number"):
            ModelCheckpoint("x", save_freq="batch")
        with pytest.raises(ValueError, match="factor must lie between 0 and 1, got 1"):
            ReduceLROnPlateau(factor=1)
        with pytest.raises(ValueError, match="mode must be"):
            EarlyStopping(mode="up")
        with pytest.raises(ValueError, match="monitor must be the name of a number in the logs"):
            EarlyStopping(monitor=3)


def test_epochs_without_validation_are_passed_over():
    stop = EarlyStopping(patience=1)
    dense().fit(
        *points(),
        epochs=4,
        verbose=0,
        callbacks=[stop],
        validation_data=points(),
        validation_freq=2,
    )
    assert stop.waited <= 2 and stop.best_epoch in (1, 3)
    with pytest.raises(ValueError, match="watches 'val_loss'"):
        dense().fit(*points(), verbose=0, callbacks=[EarlyStopping()])
