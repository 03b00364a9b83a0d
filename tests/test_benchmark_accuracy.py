"""Accuracies beside torch's: the table, what is trained the same way, wrong usage."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

# Beside the tests, not installed; last on the path, so that an installed pyconvopt comes first.
sys.path.append(str(Path(__file__).resolve().parent.parent))

import pyconvopt as pco
from benchmarks import accuracy, models


def test_the_table():
    runs = [
        {"model": "article", "manner": manner, "seed": seed, "accuracy": value}
        for manner, values in zip(accuracy.MANNERS, ((0.9, 0.91), (0.91, 0.91), (0.9, 0.91)), strict=True)
        for seed, value in enumerate(values)
    ]  # fmt: skip
    here = {"processor": "A Processor", "instruction_set": "AVX2"}
    result = {
        "machine": here,
        "version": "avx2, torch 2",
        "seeds": 2,
        "epochs": 5,
        "batch": 64,
        "runs": runs,
    }
    lines = accuracy.table(result).splitlines()
    # Half widths: t = 12.706 times s / √2; s = 0.01 / √2 of 0.90, 0.91 and of the differences 0.01, 0.
    assert lines[4] == "article     torch                     0.9050 ± 0.0635"
    columns = " ".join(lines[5].split())
    assert columns == "article accelerate 0.9100 ± 0.0000 +0.0050 ± 0.0635 0.50"
    assert " ".join(lines[6].split()).endswith("0.9050 ± 0.0635 +0.0000 ± 0.0000 1.00")


def test_the_manners_start_alike_and_differ_in_their_kernels():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(96, 1, 28, 28, generator=generator), torch.arange(96) % 10
    data = accuracy.Images(x, y)
    model = models.Model("article", (28, 28, 1), 8, models.article)
    runs = list(accuracy.measure([model], data, data, seeds=2, epochs=2, batch=32))
    assert [run["manner"] for run in runs] == 2 * list(accuracy.MANNERS)
    for seed in (0, 1):  # so few steps: rounding moves no image, or one, across a border
        found = [run["accuracy"] for run in runs if run["seed"] == seed]
        assert max(found) - min(found) <= 1 / 96 + 1e-9
    module = pco.accelerate(nn.Sequential(nn.Conv2d(16, 16, 3, padding=1)))
    kernels = []
    for _, context in list(accuracy.MANNERS.values())[1:]:
        with context():
            kernels.append(pco.explain(module, torch.ones(1, 16, 8, 8)).rows[0]["kernel"])
    assert ["winograd" in kernel for kernel in kernels] == [True, False]


@pytest.mark.parametrize(
    "wrong", (["--models", "lenet"], ["--models", "vgg_bn"], ["--seeds", "0"], ["--epochs", "-1"])
)
def test_wrong_usage(wrong, capsys):
    assert accuracy.main(wrong) == 2
    assert "error: " in capsys.readouterr().err
