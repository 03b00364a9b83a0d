"""Layers alone and inference: the table, the same work by every peer, the reports, tiny runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

# Beside the tests, not installed; last on the path, so that an installed pyconvopt comes first.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks import (
    benchmark,
    ceilings,
    inference,
    layer_report,
    layers,
    models,
    onnx_files,
    peers,
    problems,
    report,
    scaling,
    tensors,
)
from benchmarks.harness import Session
from benchmarks.peers import pyconvopt_, torch_
from benchmarks.problems import Problem
from pyconvopt import _C

ROUND = {"rounds": 1, "turn": {"warmup": 0, "seconds": 0.0, "at_least": 1}, "check_first": True}
SMALL = (
    Problem("convolution", ("x",), 2, 8, 9, 7, 16, 3, 3, 1, 1, 1),
    Problem("convolution", ("x",), 2, 64, 8, 8, 64, 3, 3, 1, 1, 1),
    Problem("convolution", ("x",), 2, 3, 13, 13, 8, 5, 5, 2, 2, 2),
    Problem("convolution", ("x",), 2, 16, 9, 9, 16, 3, 3, 1, 1, 1, 16),
    Problem("convolution", ("x",), 2, 16, 9, 9, 8, 1, 7, 1, 0, 3),
    Problem("batch_norm_relu", ("x",), 4, 16, 6, 6),
    Problem("max_pool", ("x",), 2, 8, 7, 6, 0, 2, 2, 2),
    Problem("max_pool", ("x",), 2, 8, 7, 6, 0, 3, 3, 2, 1, 1),
    Problem("dropout", ("x",), 4, 64, 16, 16),
    Problem("sgd", ("x",), parameters=((2, 100), (1, 33))),
    Problem("adam", ("x",), parameters=((2, 100), (1, 33))),
)
CASES = [pytest.param(p, pass_, id=f"{p}-{pass_}") for p in SMALL for pass_ in p.passes]


def test_the_table() -> None:
    table = problems.read()
    shapes = [replace(problem, networks=()) for problem in table]
    assert len(set(shapes)) == len(shapes), "a shape stands in the table twice"
    text = problems.TABLE.read_text(encoding="utf-8").splitlines()
    lines = [line for line in text if line and not line.startswith(("//", "PARAMETERS"))]
    assert len(lines) == len([problem for problem in table if not problem.parameters])
    (sgd,) = [problem for problem in table if problem.kind == "sgd"]
    assert sgd.parameter_count() == 11_689_512  # ResNet-18 with 1000 classes
    assert sum(count for count, _ in sgd.parameters) == 62
    resnet = problems.select(["resnet18"], ["convolution"], [1], table)
    assert len(resnet) == 11 and str(resnet[0]) == "3→64, 224×224, 7×7/2"
    assert resnet[0].output_shape == (1, 64, 112, 112)
    depthwise = [p for p in table if p.group("forward") == "depthwise"]
    assert all(p.groups == p.channels for p in depthwise)


def test_selection() -> None:
    table = problems.read()
    chosen = problems.select(["resnet18"], [], [1, 8], table)
    assert {problem.batch for problem in chosen if not problem.parameters} == {1, 8}
    assert len([problem for problem in chosen if problem.kind == "adam"]) == 1
    with pytest.raises(ValueError, match="unknown network 'lenet'; known: resnet18"):
        problems.select(["lenet"], [], [1], table)
    with pytest.raises(ValueError, match="unknown kind 'conv'"):
        problems.select([], ["conv"], [1], table)


def test_unknown_lines_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "layers.inc"
    file.write_text('DECONVOLUTION("x", 1, 2, 3)\n')
    with pytest.raises(ValueError, match="unknown kind of layer 'DECONVOLUTION'"):
        problems.read(file)


def test_operations_and_bytes() -> None:
    p = Problem("convolution", ("x",), 2, 4, 5, 5, 6, 3, 3, 2, 1, 1, 2)
    assert p.output_shape == (2, 6, 3, 3)
    assert p.flops() == 2 * (2 * 6 * 3 * 3) * (2 * 3 * 3)
    assert p.bytes() == 4 * (2 * 4 * 25 + 2 * 6 * 9 + 6 * 2 * 9)
    pool = Problem("max_pool", ("x",), 1, 2, 5, 4, 0, 2, 2, 2)
    assert pool.output_shape == (1, 2, 2, 2) and pool.bytes() == 4 * 2 * (40 + 8)
    assert replace(p, channels=3, groups=1).passes == ("forward", "weight_gradient")


def test_a_problem_survives_json() -> None:
    for problem in SMALL:
        assert Problem.of(json.loads(json.dumps(problem.request()))) == problem


def test_samples() -> None:
    y = np.random.default_rng(0).standard_normal((3, 4, 5, 6), dtype=np.float32)
    kept = tensors.samples(y, 2 * y)
    assert len(kept) == 2 * (1 + tensors.KEPT)
    assert kept[0] == pytest.approx(np.sqrt(np.mean(y**2)))
    other_layout = np.ascontiguousarray(y.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert tensors.apart(kept, tensors.samples(other_layout, 2 * other_layout)) < 1e-6
    assert tensors.apart(kept, tensors.samples(y[:, ::-1], 2 * y)) > 0.1
    assert not tensors.apart(kept, [float("nan")] * len(kept)) <= 1.0


def measured_here(problem: Problem, pass_: str) -> dict[str, list[float]]:
    works = {
        "pyconvopt": pyconvopt_.make_layer(problem, 2, pass_=pass_, manner="layers"),
        "nchw": torch_.make_layer(problem, 2, pass_=pass_, channels_last=False),
        "channels_last": torch_.make_layer(problem, 2, pass_=pass_, channels_last=True),
    }
    return {name: work.check() for name, work in works.items()}


def entry_of(problem: Problem, checks: dict[str, list[float]]) -> dict:
    peers_ = [{"peer": name, "check": check} for name, check in checks.items()]
    return {"problem": problem.request(), "peers": peers_}


@pytest.mark.parametrize(("problem", "pass_"), CASES)
def test_the_same_work(problem: Problem, pass_: str) -> None:
    checks = measured_here(problem, pass_)
    entry = entry_of(problem, checks)
    assert layer_report.departing(entry) == set()
    entry["peers"][0]["check"] = [1.1 * value for value in checks["pyconvopt"]]
    assert "pyconvopt" in layer_report.departing(entry)


def test_torch_says_what_a_gradient_is() -> None:
    """The passes are what they are called: the weight gradient by torch's own function."""
    import torch

    problem = SMALL[0]
    x, dy = (
        torch.from_numpy(tensors.draw(index, shape))
        for index, shape in (
            (tensors.INPUT, problem.input_shape),
            (tensors.GRADIENT, problem.output_shape),
        )
    )
    wanted = torch.nn.grad.conv2d_weight(x, problem.weight_shape, dy, padding=1)
    checks = measured_here(problem, "weight_gradient")
    assert tensors.apart(checks["nchw"], tensors.samples(wanted.numpy())) < 1e-4


@pytest.mark.parametrize("name", ("onnxruntime", "openvino"))
def test_runtimes_do_the_same_work(name: str) -> None:
    """In their own interpreters, where they are installed; forward only."""
    python = benchmark.interpreters([])
    with Session([peers.TABLE[name]], threads=1, python=python) as session:
        for problem in SMALL[:5]:
            request = {"work": "layer", "problem": problem.request(), "pass": "forward"}
            measured = session.measure(request, name, **ROUND)
            assert measured["failed"] == {}
            if measured["left_out"]:
                pytest.skip(measured["left_out"][name])
            ours = measured_here(problem, "forward")["pyconvopt"]
            assert tensors.apart(measured["peers"][0]["check"], ours) < 1e-3
        request |= {"pass": "weight_gradient"}
        assert "forward pass" in session.measure(request, name, **ROUND)["left_out"][name]


@pytest.mark.parametrize("name", ("onnxruntime", "openvino", "ncnn"))
def test_runtimes_infer_the_same(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    model = models.TABLE["article_bn"]
    file = tmp_path / "model.onnx"
    onnx_files.write(model, 2, file)
    request = {"work": "inference", "model": model.name, "batch": 2, "data": str(file)}
    python = benchmark.interpreters([])
    with Session([peers.TABLE[name]], threads=1, python=python) as session:
        measured = session.measure(request, name, **ROUND)
        assert measured["failed"] == {}
        if measured["left_out"]:
            pytest.skip(measured["left_out"][name])
        missing = session.measure(request | {"data": None}, name, **ROUND)
    assert "no ONNX file" in missing["left_out"][name]
    ours = pyconvopt_.make_inference(model, 2, 1, manner="layers").check()
    assert measured["peers"][0]["check"] == pytest.approx(ours, rel=1e-2)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_inference_is_one_function() -> None:
    model = models.TABLE["article_bn"]
    losses = [
        pyconvopt_.make_inference(model, 4, 1, manner="layers").check(),
        pyconvopt_.make_inference(model, 4, 1, manner="nn").check(),
        pyconvopt_.make_inference(model, 4, 1, manner="accelerate").check(),
        pyconvopt_.make_inference(model, 4, 1, manner="frozen").check(),
        torch_.make_inference(model, 4, 1, channels_last=False).check(),
        torch_.make_inference(model, 4, 1, channels_last=True, frozen=True).check(),
    ]
    assert losses == pytest.approx([losses[0]] * 6, rel=1e-4)
    with pytest.raises(NotImplementedError, match="manner 'other'"):
        pyconvopt_.make_inference(model, 4, 1, manner="other")


def test_cross_entropy() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], np.float32)) + 100
    assert models.cross_entropy(logits, np.array([0, 2])) == pytest.approx(
        -(np.log(0.5) + np.log(0.8)) / 2, rel=1e-4
    )


def test_a_session_goes_on_after_a_failure() -> None:
    with Session([peers.TABLE["torch.nchw"]], threads=1, python={}) as session:
        unknown = {**SMALL[0].request(), "kind": "unknown"}
        request = {"work": "layer", "problem": unknown, "pass": "forward"}
        assert "KeyError" in session.measure(request, "x", **ROUND)["failed"]["torch.nchw"]
        request["problem"] = SMALL[0].request()
        assert len(session.measure(request, "x", **ROUND)["peers"]) == 1


# --- reports --------------------------------------------------------------------------------------


def a_peer(name: str, times: list[float], check: float = 1.0) -> dict:
    return {
        "peer": name,
        "ours": name == "ours",
        "tuned": False,
        "turns": [[time] for time in times],
        "check": [check] * (1 + tensors.KEPT),
        "version": f"{name} 1.0",
    }


def an_entry(problem: Problem, pass_: str, *found: dict, **facts: object) -> dict:
    return {
        "problem": problem.request(),
        "name": str(problem),
        "pass": pass_,
        "group": problem.group(pass_),
        "flops": problem.flops(),
        "bytes": problem.bytes(),
        "threads": 2,
        "peers": list(found),
        "left_out": {},
        "failed": {},
        **facts,
    }


@pytest.fixture
def result() -> dict:
    wide, first = SMALL[1], SMALL[2]
    return {
        "benchmark": "layers",
        "title": "layers",
        "unit": "ms",
        "per_second": 1e3,
        "machine": {
            "processor": "A Processor",
            "instruction_set": "AVX2",
            "cores": 2,
            "load_before": 0.1,
            "system": "Linux",
            "settings": {},
        },
        "threads": 2,
        "rounds": 3,
        "processes": 1,
        "turn": {"warmup": 1, "seconds": 0.02, "at_least": 2},
        "peers": ["ours", "slow", "fast", "absent"],
        "ceilings": {
            "flops_per_second": 1e11,
            "flops_by": "sums",
            "bytes_per_second": 1e10,
            "bytes_by": "a copy",
        },
        "layers": [
            an_entry(
                wide,
                "forward",
                a_peer("ours", [0.001, 0.002, 0.001]),
                a_peer("slow", [0.009, 0.018, 0.009]),
                a_peer("fast", [0.004, 0.008, 0.003]),
                left_out={"absent": "No module named 'absent'"},
            ),
            an_entry(
                wide,
                "data_gradient",
                a_peer("ours", [0.001] * 3),
                a_peer("slow", [0.001] * 3),
                left_out={"absent": "No module named 'absent'"},
            ),
            an_entry(first, "forward", a_peer("ours", [0.002] * 3), a_peer("fast", [0.001] * 3)),
        ],
    }


def test_rows(result: dict) -> None:
    row = layer_report.row(result, result["layers"][0])
    cells = row.split()
    assert cells[:6] == ["x", "64→64,", "8×8,", "3×3", "2", "forward"]
    assert cells[6:10] == ["1.000", "9.000", "4.000", "–"]
    assert cells[10:13] == ["4.00", "(3.00–4.00)", "fast"]
    flops = 2 * 2 * 64 * 8 * 8 * 64 * 9
    assert float(cells[13]) == pytest.approx(flops / 1e-3 / 1e9, abs=0.05)
    assert layer_report.header(result).split()[:4] == ["network", "layer", "batch", "pass"]


def test_geometric_means_and_worst(result: dict) -> None:
    text = layer_report.summary(result)
    rows = {line.split("  ")[0]: line.split()[-4:] for line in text.splitlines()}
    group = "3×3 stride 1, C, K ≥ 64: forward, data gradient"
    assert rows[group] == ["2", "2.00", "1.00", "4.00"]
    assert rows["first layers"] == ["1", "0.50", "0.50", "0.50"]
    assert rows["all"][1] == "1.26"  # ∛2
    assert "worst of all: 0.50: x 3→8, 13×13, 5×5/2, batch 2, forward" in text
    assert "left out: absent: No module named 'absent'" in text


def test_other_results_are_marked(result: dict) -> None:
    entry = result["layers"][0]
    entry["peers"][1]["check"][5] = 1.01
    row = layer_report.row(result, entry)
    assert "9.000!" in row and "not the same work" in row
    entry["peers"], entry["failed"] = [], {"slow": "ended (1)"}
    assert "failed: slow: ended (1)" in layer_report.row(result, entry)


def test_json_and_roofline(result: dict, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("matplotlib")
    file, chart = tmp_path / "r.json", tmp_path / "r.png"
    report.write_json(result, file)
    assert report.read_json(file) == json.loads(json.dumps(result))
    assert layer_report.main([str(file), "--png", str(chart)]) == 0
    assert chart.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert layer_report.summary(result) in printed
    assert "ceilings: 100 GFLOP/s (sums), 10.0 GB/s (a copy)" in printed
    assert layer_report.main([str(tmp_path / "none.json")]) == 1


def test_scaling_marks_a_cliff(result: dict, tmp_path: Path) -> None:
    result["benchmark"] = "scaling"
    values = {
        8: 0.001,
        16: 0.002,
        32: 0.008,
    }  # the last step: four times the time of twice the work
    result["layers"] = [
        an_entry(
            scaling.changed(scaling.BASES["3×3"], "batch", batch),
            "forward",
            a_peer("ours", [time]),
            **{"base": "3×3", "axis": "batch", "value": batch},
        )
        for batch, time in values.items()
    ]
    text = layer_report.summary(result)
    assert "cliffs of ours: 3×3, forward, batch 32" in text
    assert [line.split()[2].endswith("!") for line in text.splitlines()[2:5]] == [0, 0, 1]
    pytest.importorskip("matplotlib")
    layer_report.draw(result, tmp_path / "s.png")
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


def test_scaling_steps() -> None:
    steps = list(scaling.steps(2))
    axes = {step.facts["axis"] for step in steps}
    assert axes == {"batch", "channels", "image size", "threads"}
    assert {step.threads for step in steps if step.facts["axis"] == "threads"} == {1, 2}
    wide = scaling.changed(scaling.BASES["depthwise 3×3"], "channels", 100)
    assert wide.groups == wide.channels == wide.out_channels == 100


# --- ceilings, tiny runs, the C++ benchmarks ------------------------------------------------------


def test_ceilings_from_the_kernels(tmp_path: Path) -> None:
    def row(name: str, **counters: float) -> dict:
        return {"name": name, "run_type": "iteration", **counters}

    rows = [row("machine/fma_peak/real_time", **{"FLOP/s": 3e11})]
    rows += [row("machine/copy/real_time", **{"bytes/s": value}) for value in (4e10, 5e10)]
    program = tmp_path / "kernels"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps({'benchmarks': rows})}\nEND\n")
    program.chmod(0o755)
    found = ceilings.from_kernels(program, 2)
    assert (found["flops_per_second"], found["bytes_per_second"]) == (3e11, 5e10)
    program.write_text("#!/bin/sh\necho nothing\n")
    with pytest.raises(ceilings.Unknown, match="gives no machine/fma_peak"):
        ceilings.from_kernels(program, 2)
    with pytest.raises(ceilings.Unknown):
        ceilings.from_kernels(tmp_path / "none", 2)


@pytest.mark.parametrize(
    "wrong", (["--network", "lenet"], ["--kind", "x"], ["--peers", "caffe"], ["--batch", "8", "0"])
)
def test_wrong_usage(wrong: list[str], capsys: pytest.CaptureFixture) -> None:
    assert layers.main(wrong) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_tiny_run_of_layers(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "run.json"
    options = ["--network", "efficientnet_b0", "--kind", "convolution", "dropout", "--batch", "1"]
    options += ["--passes", "forward", "--peers", "pyconvopt", "torch.channels_last"]
    options += ["--rounds", "1", "--seconds", "0", "--threads", "1", "--json", str(file)]
    assert layers.main(options) == 0
    found = json.loads(file.read_text())
    table = problems.select(["efficientnet_b0"], ["convolution", "dropout"], [1], problems.read())
    assert [entry["name"] for entry in found["layers"]] == [str(problem) for problem in table]
    assert all(len(entry["peers"]) == 2 for entry in found["layers"])
    assert all(layer_report.departing(entry) == set() for entry in found["layers"])
    assert found["ceilings"]["flops_per_second"] > 1e8
    assert "worst of all:" in capsys.readouterr().out


def test_an_interrupted_run_keeps_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: dict
) -> None:
    def interrupted(*_: object):
        yield {**result["layers"][1], "peers": [a_peer("ours", [0.001])]}
        raise KeyboardInterrupt

    monkeypatch.setattr(layers, "measure", interrupted)
    monkeypatch.setattr(ceilings, "measure", lambda *_: result["ceilings"])
    file = tmp_path / "run.json"
    assert layers.main(["--peers", "torch.nchw", "--json", str(file)]) == 1
    assert len(json.loads(file.read_text())["layers"]) == 1


def test_too_large_for_the_memory(result: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.machine.free_memory", lambda: 1 << 20)
    with Session([peers.TABLE["torch.nchw"]], threads=1, python={}) as session:
        large = replace(SMALL[1], height=256, width=256)
        step = scaling.Step(large, 1, {})
        (entry,) = layers.measure(session, step, ["forward"], result)
        assert session.workers == {}
    assert "needs about" in layer_report.row(result, entry)


def test_a_tiny_run_of_inference(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "run.json"
    options = ["--models", "article_bn", "--batch", "1", "3", "--rounds", "1", "--processes", "1"]
    options += ["--peers", "pyconvopt", "torch.nchw", "--seconds", "0", "--threads", "1"]
    assert inference.main([*options, "--json", str(file)]) == 0
    found = json.loads(file.read_text())["models"]
    assert [measured["batch"] for measured in found] == [1, 3]
    for measured in found:
        first, second = measured["peers"]
        assert first["check"] == pytest.approx(second["check"], rel=1e-4)
        assert first["peak_memory_mib"] > 0
    assert "fastest peer: torch.nchw" in capsys.readouterr().out


def test_every_kernel_has_a_row() -> None:
    """Of the executable that PYCONVOPT_KERNEL_BENCHMARKS names."""
    program = os.environ.get("PYCONVOPT_KERNEL_BENCHMARKS")
    if not program:
        pytest.skip("PYCONVOPT_KERNEL_BENCHMARKS names no executable of benchmarks/kernels")
    command = [program, "--benchmark_list_tests"]
    rows = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    listed = {tuple(row.split("/")[:2]) for row in rows}
    kernels = {(p, k) for p, k, isa in _C.kernel_names() if isa == _C.isa() and k != "reference"}
    assert kernels <= listed
    assert ("machine", "fma_peak") in listed and ("machine", "copy") in listed
    assert subprocess.run([program, "--batch=0"], capture_output=True).returncode == 2
