"""The benchmark of the CUDA kernels, as far as it goes without a GPU."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("benchmarks.gpu", reason="only in a checkout")

from benchmarks.gpu import __main__ as benchmark
from benchmarks.gpu.problems import KERNELS, Gpu, kernel


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert benchmark.main(["--kernels", "dropout"]) == 1
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert "torch sees no NVIDIA GPU: run this on a machine that has one" in told.err


def test_without_the_plugin_it_names_the_remedy(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(benchmark._C, "cuda_problem", lambda device: "build it with `make cuda`")
    assert benchmark.main([]) == 1
    assert capsys.readouterr().err == "build it with `make cuda`\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--kernels", "softmax"], "'softmax'; there are: batch norm"),
        (["--batch", "0"], "at least 1"),
    ],
)
def test_wrong_usage(arguments, told, capsys):
    assert benchmark.main(arguments) == 2
    assert told in capsys.readouterr().err


def test_a_row_worked_by_hand():
    measured = {"kernel": "k", "bytes": 4e9, "flops": 1e12, "arithmetic": "float32",
                "rounds": [(4.0, 6.0), (4.0, 8.0), (5.0, 10.0)]}  # fmt: skip
    gpu = Gpu("some", bandwidth=2e12, float32=1e15)
    assert benchmark.row(measured, gpu) == (
        "k", "4.000", "8.000", "2.00", "1000", "50%", "250.00", "25%",
    )  # fmt: skip
    lines = benchmark.table([measured], gpu).splitlines()
    assert len(lines) == 2 and len(lines[0]) == len(lines[1])
    unknown = {**measured, "arithmetic": "tf32"}
    assert benchmark.row(unknown, gpu)[-1] == ""


def test_names_are_unique():
    assert len({k.name for k in KERNELS}) == len(KERNELS)
    assert kernel("dropout").name == "dropout"
