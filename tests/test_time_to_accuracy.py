"""Seconds to a test accuracy: the arithmetic, the reports, and a tiny race of real workers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

# Beside the tests, not installed; last on the path, so that an installed pyconvopt comes first.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks import time_to_accuracy
from benchmarks.course import Course
from tests.tiny_data import write_tiny_set


def test_the_clock_stands_while_testing(monkeypatch):
    times = iter([10.0, 12.0, 17.0, 18.0, 18.5])  # begin; ends, tested; ends, tested
    monkeypatch.setattr("benchmarks.course.time.perf_counter", lambda: next(times))
    course = Course(0.9)
    assert not course.epoch_ends(lambda: 0.8)
    assert course.epoch_ends(lambda: 0.9)
    assert course.points == [(2.0, 0.8), (3.0, 0.9)]


def test_turns():
    assert time_to_accuracy.rotated(["a", "b", "c"], 4) == ["b", "c", "a"]
    assert time_to_accuracy.seconds_to([(1.0, 0.5)], 0.9) is None


@pytest.fixture
def result():
    runs = [
        {"entry": "fast", "seed": seed, "points": [(1.0, 0.8), (seconds, 0.91)], "version": "1"}
        for seed, seconds in enumerate([2.0, 4.0, 3.0])
    ]
    runs.append({"entry": "torch", "seed": 0, "points": [(5.0, 0.85)], "version": "1"})
    here = {"processor": "A Processor", "instruction_set": "AVX2", "cores": 2, "load_before": 0.1}
    left_out = {"keras": "No module named 'keras'"}
    machine = {"machine": here, "threads": 2, "target": 0.9}
    return {**machine, "runs": runs, "left_out": left_out, "failed": {}}


def test_table_and_chart(result, tmp_path):
    lines = time_to_accuracy.table(result).splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line}
    assert rows["fast"] == ["3/3", "3.00", "2.00–4.00", "0.9100"]
    assert rows["torch"] == ["0/1", "–", "–", "0.8500"]
    assert lines[-1] == "left out: keras: No module named 'keras'"
    pytest.importorskip("matplotlib")
    time_to_accuracy.draw(result, tmp_path / "race.png")
    assert (tmp_path / "race.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "wrong", (["--entries", "caffe"], ["--seeds", "0"], ["--target", "90"], ["--python", "x"])
)
def test_wrong_usage(wrong, capsys):
    assert time_to_accuracy.main(wrong) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_tiny_race(tmp_path, monkeypatch, capsys):
    write_tiny_set(tmp_path, 128, 64)
    monkeypatch.setenv("PYCONVOPT_DATA", str(tmp_path))
    file = tmp_path / "race.json"
    options = ["--entries", "fast", "seed", "torch", "--seeds", "1", "--epochs", "2"]
    options += ["--threads", "1", "--target", "1", "--json", str(file)]
    assert time_to_accuracy.main(options) == 0
    runs = json.loads(file.read_text())["runs"]
    assert [run["entry"] for run in runs] == ["fast", "seed", "torch"]
    for run in runs:
        (first, _), (second, accuracy) = run["points"]
        assert 0 < first < second and 0 <= accuracy <= 1
    assert "seconds to a test accuracy of 1;" in capsys.readouterr().out
