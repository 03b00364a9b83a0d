"""The benchmark of shared steps: its model by hand, and one short run of two real processes."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("benchmarks.several_machines", reason="only in a checkout")
if not torch.distributed.is_gloo_available():
    pytest.skip("torch without gloo", allow_module_level=True)

from benchmarks import several_machines as benchmark
from benchmarks.several_machines import Terms


def test_by_hand():
    terms = Terms(9e-3, 5e-3, 4e-3, 4.5e-3, 5e-3, 2e-3, 1e-3, 10e-3)
    assert terms.model == pytest.approx(8e-3)
    head, _, line = benchmark.table({64: [terms, terms]}, 2).splitlines()
    cells = [each.strip() for each in line.strip("|").split("|")]
    assert cells == [
        *("64", "9.00", "5.00", "4.00", "4.50", "5.00", "2.00", "1.00", "8.00", "10.00"),
        "0.80 (0.80 … 0.80)",
    ]
    assert len(cells) == len(head.strip("|").split("|"))
    # Two hops of two processes: 1 ms / 2 of latency; 4e5 bytes · 2 / 2 in the other millisecond.
    assert benchmark.network({64: [terms]}, 2, 400_000) == pytest.approx((0.5e-3, 4e8))


def test_wrong_usage(capsys):
    assert benchmark.main(["--processes", "1"]) == 2
    assert "processes must be at least 2" in capsys.readouterr().err


def test_a_process_that_dies_is_told(capfd):
    assert benchmark.main(["--batch", "4", "--rounds", "1", "--seconds", "inf"]) == 1
    assert "a measuring process died" in capfd.readouterr().err


def test_two_processes(tmp_path, capfd):
    arguments = ["--batch", "6", "--rounds", "2", "--seconds", "0.02"]
    assert benchmark.main([*arguments, "--json", str(tmp_path / "x.json")]) == 0
    told = capfd.readouterr().out
    assert "model / measured" in told and "latency=" in told
    result = json.loads((tmp_path / "x.json").read_text())
    rounds = [Terms(**each) for each in result["rounds"]["6"]]
    assert len(rounds) == 2 and all(min(each) > 0 for each in rounds)
    assert all(each.slowest >= each.wrapped for each in rounds)
    assert result["parameters"] == 93_322
