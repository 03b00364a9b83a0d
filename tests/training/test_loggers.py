"""What is written of a run, also of one that was broken off and taken up again."""

from __future__ import annotations

import csv
import errno
import sys

import pytest

from pyconvopt.training import CSVLogger, LambdaCallback, TensorBoard
from tests.small_models import dense, points


class Crash(Exception):
    pass


def crash_after(epoch: int) -> LambdaCallback:
    def crash(number, logs=None):
        if number == epoch:
            raise Crash

    return LambdaCallback(on_epoch_begin=crash)


def fit(folder, callback, *more, epochs=4):
    return dense().fit(
        *points(),
        epochs=epochs,
        seed=1,
        verbose=0,
        validation_data=points(seed=1),
        validation_freq=2,
        callbacks=[callback, *more],
        checkpoint=folder,
    )


def test_tensorboard_takes_keras_arguments(tmp_path):
    pytest.importorskip("tensorboard", reason="the TensorBoard callback needs tensorboard")
    with pytest.warns(UserWarning, match="write_graph, profile_batch has no effect"):
        TensorBoard(tmp_path, write_graph=True, profile_batch=2)
    TensorBoard(tmp_path, write_graph=False, profile_batch=0, embeddings_freq=0)


class TestCSVLogger:
    def test_columns_of_numbers_that_come_later(self, tmp_path):
        history = fit(None, CSVLogger(tmp_path / "log.csv"))
        with open(tmp_path / "log.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy"]
        assert [row["val_loss"] == "NA" for row in rows] == [True, False, True, False]
        assert float(rows[3]["val_loss"]) == history.history["val_loss"][1]

    def test_its_folder_is_made(self, tmp_path):
        fit(None, CSVLogger(tmp_path / "new" / "one" / "log.csv"), epochs=1)
        assert (tmp_path / "new" / "one" / "log.csv").read_text().startswith("epoch,loss")

    def test_a_full_disk_does_not_end_the_run(self, tmp_path, monkeypatch):
        class Full:
            """The disk takes five bytes of a line, then none, until there is room."""

            def __init__(self, file):
                self.file, self.calls = file, 0

            def write(self, content):
                self.calls += 1
                if self.calls in (2, 4):
                    return self.file.write(content[:5])
                if self.calls in (3, 5):
                    raise OSError(errno.ENOSPC, "No space left on device")
                return self.file.write(content)

            def __getattr__(self, name):
                return getattr(self.file, name)

        opened = CSVLogger.open
        monkeypatch.setattr(CSVLogger, "open", lambda self: Full(opened(self)))
        with pytest.warns(
            UserWarning, match=r"lines of .*log.csv could not .*: No space"
        ) as caught:
            history = fit(None, CSVLogger(tmp_path / "log.csv"))
        assert len(caught) == 2 and "2 lines" in str(caught[1].message)
        lines = (tmp_path / "log.csv").read_bytes().decode().split("\r\n")
        assert [line.split(",")[0] for line in lines] == ["epoch", "0", "1", "2", "3", ""]
        assert [float(line.split(",")[1]) for line in lines[1:-1]] == history.history["loss"]

    def test_a_resumed_run_writes_each_epoch_once(self, tmp_path):
        pytest.importorskip("safetensors")
        path = tmp_path / "log.csv"
        with pytest.raises(Crash):
            fit(tmp_path / "backup", CSVLogger(path), crash_after(2))
        kept = path.read_bytes()
        assert kept.count(b"\n") == 3
        # A line of an epoch that no checkpoint knows, as a kill just before its writing leaves it.
        path.write_bytes(kept + b"2,0.1,0.1,NA,NA\r\n3,0.")
        history = fit(tmp_path / "backup", CSVLogger(path))
        lines = path.read_text().splitlines()
        assert [line.split(",")[0] for line in lines] == ["epoch", "0", "1", "2", "3"]
        assert [float(line.split(",")[1]) for line in lines[1:]] == history.history["loss"]


class TestTensorBoard:
    def test_numbers_weights_and_resumed_runs(self, tmp_path):
        pytest.importorskip("tensorboard", reason="needs the extra 'tensorboard'")
        events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

        def board():
            return TensorBoard(tmp_path / "logs", histogram_freq=2, update_freq=1)

        with pytest.raises(Crash):
            fit(tmp_path / "backup", board(), crash_after(2))
        history = fit(tmp_path / "backup", board())

        def read(place):
            found = events.EventAccumulator(str(tmp_path / "logs" / place), {"histograms": 0})
            found.Reload()
            return found

        losses = read("train").Scalars("epoch_loss")
        assert [event.step for event in losses] == [0, 1, 2, 3]
        assert [event.value for event in losses] == pytest.approx(history.history["loss"])
        assert [event.step for event in read("validation").Scalars("epoch_loss")] == [1, 3]
        assert [event.step for event in read("train").Histograms("dense.weight")] == [0, 2]
        assert [event.step for event in read("batches").Scalars("batch_loss")] == list(range(1, 9))

    def test_without_the_package(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorboard", None)
        with pytest.raises(ImportError, match=r'pip install "pyconvopt\[tensorboard\]"'):
            TensorBoard()
