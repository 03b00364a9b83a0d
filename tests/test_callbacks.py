"""Callbacks and the History: hooks in order, what each does, what it leaves behind."""

from __future__ import annotations

import json
import math
import os
import re

import numpy as np
import pytest

from pyconvopt.training import (
    Callback,
    CSVLogger,
    EarlyStopping,
    History,
    LambdaCallback,
    LearningRateScheduler,
    TerminateOnNaN,
)
from tests.small_models import RATE, dense, points, sgd


class Recorder(Callback):
    def __init__(self):
        self.calls = []

    def on_train_begin(self, logs=None):
        self.calls.append("begin")

    def on_train_batch_end(self, batch, logs=None):
        self.calls.append((batch, set(logs), math.isfinite(logs["loss"])))

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(("epoch", epoch, sorted(logs)))

    def on_train_end(self, logs=None):
        self.calls.append("end")


class TestCallbacks:
    def test_hooks_in_order_with_their_numbers(self):
        recorder = Recorder()
        dense().fit(*points(40), epochs=1, verbose=0, callbacks=[recorder])
        batch = ({"loss", "accuracy"}, True)
        assert recorder.calls == [
            "begin",
            (0, *batch),
            (1, *batch),
            ("epoch", 0, ["accuracy", "loss"]),
            "end",
        ]
        assert recorder.params["steps"] == 2 and recorder.model.layers

    def test_end_is_called_after_an_error_too(self):
        ended = []

        def stumble(epoch, logs):
            raise KeyboardInterrupt

        callback = LambdaCallback(on_epoch_end=stumble, on_train_end=lambda logs: ended.append(1))
        with pytest.raises(KeyboardInterrupt):
            dense().fit(*points(), verbose=0, callbacks=[callback])
        assert ended == [1]

    def test_early_stopping_brings_the_best_weights_back(self):
        model = dense(optimizer=sgd)
        values = iter([3.0, 1.0, 2.0, 2.5, 9.0])
        kept = []

        class Scripted(Callback):
            def on_epoch_end(self, epoch, logs=None):
                logs["val_loss"] = next(values)
                kept.append(model.get_weights()[0])

        stop = EarlyStopping(patience=2, restore_best_weights=True)
        history = model.fit(*points(), epochs=9, verbose=0, callbacks=[Scripted(), stop])
        assert len(history.epoch) == 4 and stop.best_epoch == 1
        np.testing.assert_array_equal(model.get_weights()[0], kept[1])
        assert not np.array_equal(kept[1], kept[3])

    def test_early_stopping_directions_and_missing_numbers(self):
        assert EarlyStopping("val_accuracy").sign == 1 and EarlyStopping("val_loss").sign == -1
        with pytest.raises(ValueError, match="watches 'val_loss', but the logs hold loss, acc"):
            dense().fit(*points(), verbose=0, callbacks=[EarlyStopping()])

    def test_csv_logger(self, tmp_path):
        path = tmp_path / "log.csv"
        model = dense()
        history = model.fit(*points(), epochs=2, verbose=0, callbacks=[CSVLogger(path)])
        model.fit(*points(), epochs=1, verbose=0, callbacks=[CSVLogger(path, append=True)])
        lines = path.read_text().splitlines()
        assert lines[0] == "epoch,loss,accuracy" and len(lines) == 4
        assert float(lines[1].split(",")[1]) == history.history["loss"][0]

    def test_learning_rate_scheduler(self):
        model = dense(optimizer=sgd)
        halve = LearningRateScheduler(lambda epoch, rate: rate / 2)
        model.fit(*points(), epochs=3, verbose=0, callbacks=[halve])
        assert model.optimizer.param_groups[0]["lr"] == pytest.approx(RATE / 8)
        by_epoch = LearningRateScheduler(lambda epoch: 0.5)
        model.fit(*points(), verbose=0, callbacks=[by_epoch])
        assert model.optimizer.param_groups[0]["lr"] == 0.5

    def test_terminate_on_nan(self, capsys):
        model = dense(loss=lambda outputs, targets: outputs.sum() * float("nan"))
        history = model.fit(*points(), epochs=5, verbose=0, callbacks=[TerminateOnNaN()])
        assert len(history.epoch) == 1 and "the loss is nan" in capsys.readouterr().out

    def test_refusals(self):
        with pytest.raises(TypeError, match="no hook 'on_epoch'"):
            LambdaCallback(on_epoch=print)
        with pytest.raises(TypeError, match="must be Callback objects"):
            dense().fit(*points(), callbacks=[print], verbose=0)

    def test_history_as_json(self, tmp_path):
        history = dense().fit(*points(), epochs=2, verbose=0)
        history.to_json(tmp_path / "h.json")
        read = json.loads((tmp_path / "h.json").read_text())
        assert read["history"] == history.history and read["params"]["batch_size"] == 32
        assert os.listdir(tmp_path) == ["h.json"]

    def test_numbers_that_json_does_not_have(self, tmp_path):
        history = History()
        history.history = {"loss": [1.0, math.nan, math.inf]}
        text = history.to_json(tmp_path / "h.json")
        assert json.loads(text)["history"] == {"loss": [1.0, None, None]}
        assert not {"NaN", "Infinity"} & set(re.findall(r"[A-Za-z]+", text))
        read = History.from_json(tmp_path / "h.json").history["loss"]
        assert read[0] == 1.0 and all(map(math.isnan, read[1:]))

    def test_keras_hooks_of_other_batches(self):
        class Hooks(Callback):
            def __init__(self):
                self.calls = []

            def on_batch_end(self, batch, logs=None):
                self.calls.append(("batch", batch, sorted(logs)))

            def on_test_batch_begin(self, batch, logs=None):
                self.calls.append(("test begin", batch))

            def on_test_batch_end(self, batch, logs=None):
                self.calls.append(("test", batch, sorted(logs)))

            def on_test_end(self, logs=None):
                self.calls.append(("test end", sorted(logs)))

            def on_predict_batch_end(self, batch, logs=None):
                self.calls.append(("predict", batch, len(logs["outputs"])))

        class Both(Hooks):
            def on_train_batch_end(self, batch, logs=None):
                self.calls.append("new name")

        hooks, model = Hooks(), dense()
        names = ["accuracy", "loss"]
        model.fit(*points(), batch_size=32, verbose=0, callbacks=[hooks], validation_data=points(8))
        assert hooks.calls == [
            ("batch", 0, names),
            ("batch", 1, names),
            ("test begin", 0),
            ("test", 0, names),
            ("test end", ["accuracy", "loss", "val_accuracy", "val_loss"]),
        ]
        hooks.calls.clear()
        given = {"verbose": 0, "batch_size": 16, "callbacks": [hooks], "steps": 1}
        model.evaluate(*points(), **given)
        assert hooks.calls == [("test begin", 0), ("test", 0, names), ("test end", names)]
        hooks.calls.clear()
        assert model.predict(points()[0], **given).shape == (16, 2)
        assert hooks.calls == [("predict", 0, 16)]
        both = Both()
        model.fit(*points(), batch_size=64, verbose=0, callbacks=[both])
        assert both.calls == ["new name"]
