"""The benchmarks' own arithmetic, their reports, and one tiny run of real workers."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

# Beside the tests, not installed; last on the path, so that an installed pyconvopt comes first.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks import benchmark, harness, models, peers, report, train_step, worker
from benchmarks.harness import Spread, paired_ratio, round_figures
from benchmarks.peers import torch_


def a_peer(name: str, turns: list[list[float]], **more: object) -> dict:
    facts = {"ours": False, "tuned": False, "check": 2.5, "parameters": 93322}
    return {
        "peer": name,
        "turns": turns,
        "version": f"{name} 1.0",
        "peak_memory_mib": 64.0,
        **facts,
        **more,
    }


@pytest.fixture
def result() -> dict:
    """Three peers, three rounds; the second round ran on a slow machine."""
    return {
        "benchmark": "train_step",
        "title": "one training step",
        "unit": "ms",
        "per_second": 1e3,
        "check": "loss",
        "check_first": True,
        "total": False,
        "machine": {
            "processor": "A Processor",
            "instruction_set": "AVX2",
            "cores": 2,
            "load_before": 0.1,
            "system": "Linux",
            "settings": {"PYCONVOPT_ISA": "avx2"},
        },
        "threads": 2,
        "rounds": 3,
        "processes": 1,
        "turn": {"warmup": 3, "seconds": 1.0, "at_least": 3},
        "models": [
            {
                "model": "article",
                "input_shape": [28, 28, 1],
                "batch": 64,
                "random": False,
                "peers": [
                    a_peer("pyconvopt", [[0.005, 0.005, 9.0], [0.010], [0.005]], ours=True),
                    a_peer("slow", [[0.020], [0.040], [0.021]]),
                    a_peer("tuned", [[0.015], [0.030], [0.016]], tuned=True),
                ],
                "left_out": {"absent": "No module named 'absent'"},
                "failed": {},
            }
        ],
    }


def test_statistics() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
    assert round_figures([[1.0, 100.0, 2.0], [4.0]]) == [2.0, 4.0]
    # Unpaired, the medians 4 and 2 would give 2; the rounds say 2, 4 and 1.
    assert paired_ratio([4.0, 8.0, 2.0], [2.0, 2.0, 2.0]) == (2.0, 1.0, 4.0)
    with pytest.raises(ValueError):
        paired_ratio([1.0, 2.0], [1.0])


def test_table(result: dict) -> None:
    text = report.heading(result) + "\n" + report.section(result, result["models"][0])
    assert "AVX2, 2 threads on 2 cores, load before 0.10, PYCONVOPT_ISA=avx2" in text
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line}
    assert rows["pyconvopt"][1:4] == ["5.00", "5.00–10.00", "1.00"]
    assert rows["slow"][1:5] == ["21.00", "20.00–40.00", "4.00", "(4.00–4.20)"]
    assert "fastest peer: tuned, 16.00 ms; pyconvopt 3.00 (3.00–3.20) times as fast" in text
    assert "fastest without tuning: slow, 21.00 ms; pyconvopt 4.00" in text
    assert "left out: absent: No module named 'absent'" in text
    assert "!" not in text


def test_total_over_the_epochs(result: dict) -> None:
    result["total"] = True
    text = report.section(result, result["models"][0])
    assert "times as fast, 3.05 over all 3" in text


def test_other_work_is_noticed(result: dict) -> None:
    measured = result["models"][0]
    measured["peers"][1]["check"] = 2.6
    measured["peers"][2]["parameters"] = 93482
    assert report.departing(result, measured) == {"slow"}
    text = report.section(result, measured)
    assert "2.6000!" in text and "not the same work" in text and "not the same model" in text
    measured["random"] = True
    assert report.departing(result, measured) == set()
    measured["peers"][1]["check"] = float("nan")
    assert "slow" in report.departing(result, measured)


def test_busy_machine_is_noticed(result: dict) -> None:
    result["machine"]["load_before"] = 3.0
    assert "do not trust" in report.heading(result)


def test_json_and_chart(result: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, chart = tmp_path / "r.json", tmp_path / "r.png"
    report.write_json(result, file)
    assert report.read_json(file) == result
    pytest.importorskip("matplotlib")
    assert report.main([str(file), "--png", str(chart)]) == 0
    assert chart.read_bytes().startswith(b"\x89PNG")
    assert report.section(result, result["models"][0]) in capsys.readouterr().out


def test_report_of_a_file_that_is_none(tmp_path: Path) -> None:
    assert report.main([str(tmp_path / "none.json")]) == 1


def test_burst_counts() -> None:
    runs: list[int] = []
    times = worker.burst(lambda: runs.append(1), warmup=2, seconds=0.0, at_least=3)
    assert len(times) == 3 and len(runs) == 5
    assert len(worker.burst(lambda: None, warmup=0, seconds=0.01, at_least=1)) > 3


def test_choice_of_peers() -> None:
    assert [peer.name for peer in peers.choose(["pyconvopt"], "layer")] == ["pyconvopt"]
    family = [peer.name for peer in peers.choose(["torch"], "inference")]
    assert family == ["torch.channels_last", "torch.nchw", "torch.compile", "torch.frozen"]
    layers = [peer.name for peer in peers.choose(["torch"], "layer")]
    assert layers == ["torch.channels_last", "torch.nchw"]
    (named,) = peers.choose(["torch.channels_last_malloc"], "inference")
    assert named.name == "torch.channels_last_malloc"
    with pytest.raises(ValueError, match="unknown peer 'caffe'; known: "):
        peers.choose(["caffe"], "layer")
    with pytest.raises(ValueError, match="no peer of 'keras' is measured here"):
        peers.choose(["keras"], "layer")


def test_interpreters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYCONVOPT_BENCH_PYTHON_KERAS", "/a/python")
    assert benchmark.interpreters([])["keras"] == "/a/python"
    assert benchmark.interpreters(["keras=/b/python"])["keras"] == "/b/python"
    with pytest.raises(ValueError, match="FAMILY=PATH"):
        benchmark.interpreters(["keras"])


@pytest.mark.parametrize(
    "wrong",
    (
        ["--models", "lenet"],
        ["--json", "no/such/folder/run.json"],
        ["--peers", "caffe"],
        ["--rounds", "0"],
        ["--threads", "-1"],
        ["--python", "x"],
    ),
)
def test_wrong_usage(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert train_step.main(wrong) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("name", models.TABLE)
def test_both_forms_of_a_model_are_one(name: str) -> None:
    """torch's and Keras' definitions give the same outputs from the same start."""
    model = models.TABLE[name]
    if model.keras is None:
        pytest.skip(f"{name} has no Keras form")
    from pyconvopt import layers
    from pyconvopt.models import Sequential

    ours = Sequential([layers.Input(model.input_shape), *model.keras(layers, "linear")])
    ours.set_weights(models.keras_weights(ours.get_weights()))
    theirs = torch_.start(model.torch(torch.nn))
    assert torch_.parameter_count(ours) == torch_.parameter_count(theirs)
    x, _ = models.example_batch(model, 4)
    with torch.no_grad():
        got = ours.eval()(torch.from_numpy(x)).numpy()
        wanted = theirs.eval()(torch_.example(model, 4)[0]).numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())


OURS = [p.name for p in peers.TABLE.values() if p.ours and "train_step" in p.works]


@pytest.mark.parametrize("peer", OURS)
@pytest.mark.parametrize("name", models.TABLE)
def test_our_peers_do_the_same_work(name: str, peer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of the first steps is torch's; that of models with dropout roughly."""
    # Four images of 32 pixels leave the last norms of the first two four values: their second losses differ
    # by 4 % between torch's own memory formats and numbers of threads. Those of MobileNetV2, whose values at
    # the edge of ReLU6 fall to one side or the other, are 0.04 to 0.18 % from torch's in double, ours 0.08.
    steep = name in ("resnet50", "densenet121", "mobilenet_v2")
    monkeypatch.setattr(torch_, "CHECK_STEPS", 1 if steep else 2)
    model = models.TABLE[name]
    model = replace(model, input_shape=(min(model.input_shape[0], 32),) * 2 + model.input_shape[2:])
    theirs = torch_.make_train_step(model, 4, 2, channels_last=False)
    line = peers.TABLE[peer]
    try:
        ours = line.module().make_train_step(model, 4, 2, **line.options)
    except NotImplementedError as reason:
        assert model.keras is None and "not written for pyconvopt.layers" in str(reason)
        return
    assert ours.parameters == theirs.parameters
    bound = 0.5 if model.random else 1e-3
    assert ours.check() == pytest.approx(theirs.check(), rel=bound)


def test_a_tiny_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two real workers take turns; their losses agree."""
    file = tmp_path / "run.json"
    options = ["--models", "article", "--peers", "torch.channels_last", "torch.nchw"]
    options += ["--rounds", "1", "--processes", "2", "--seconds", "0"]
    options += ["--batch", "4", "--threads", "1"]
    assert train_step.main([*options, "--json", str(file)]) == 0
    (measured,) = json.loads(file.read_text())["models"]
    first, second = measured["peers"]
    assert [len(turn) for turn in first["turns"]] == [3, 3]
    assert first["check"] == pytest.approx(second["check"], rel=1e-4)
    assert first["parameters"] == 93322 and first["peak_memory_mib"] > 0
    assert "fastest peer: torch." in capsys.readouterr().out


def measure(peer: peers.Peer, python: str) -> dict:
    return harness.measure(
        "train_step",
        models.TABLE["article"],
        [peer],
        batch=4,
        threads=1,
        rounds=1,
        turn={"warmup": 0, "seconds": 0.0, "at_least": 1},
        check_first=True,
        python={peer.family: python},
    )


def test_a_missing_peer_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorflow.py").write_text("raise ImportError('no tensorflow here')\n")
    (tmp_path / "keras.py").write_text("import tensorflow\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    measured = measure(peers.TABLE["keras.function"], sys.executable)
    assert measured["peers"] == [] and measured["failed"] == {}
    assert measured["left_out"] == {"keras.function": "no tensorflow here"}


def test_a_failing_peer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keras.py").write_text("raise RuntimeError('out of luck')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    measured = measure(peers.TABLE["keras.function"], sys.executable)
    assert measured["failed"] == {"keras.function": "ended (1): RuntimeError: out of luck"}


def test_an_interpreter_that_is_not_there() -> None:
    measured = measure(peers.TABLE["keras.function"], "/nowhere/python")
    assert "/nowhere/python" in measured["failed"]["keras.function"]
