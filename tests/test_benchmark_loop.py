"""The loop beside the bare step: the arithmetic, the bare step itself, and a tiny run."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

# Beside the tests, not installed; last on the path, so that an installed pyconvopt comes first.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks import loop, models, report
from benchmarks.peers import pyconvopt_


def test_the_table():
    here = {"processor": "A Processor", "instruction_set": "AVX2", "cores": 2, "load_before": 0.1}
    run = {"model": "article", "optimizer": "sgd", "fit": [0.011, 0.012], "bare": [0.01, 0.01]}
    result = {"machine": here, "threads": 2, "batch": 64, "rounds": 2, "samples": 60000}
    text = loop.table(result | {"loops": [run], "epochs": {"flip": [0.5, 0.7]}})
    assert "article       sgd            10.00    11.50     15.0% (10.0% to 20.0%)" in text
    assert "flip                          0.60 (0.50 to 0.70)" in text


def test_the_bare_step_trains_as_fit_does():
    model = models.TABLE["article"]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, *model.input_shape), dtype=np.float32)
    y = rng.integers(0, 10, 8)

    def trained(bare: bool) -> list[np.ndarray]:
        torch.manual_seed(0)
        module = pyconvopt_.build(model, "softmax")
        module.compile("sgd", "sparse_categorical_crossentropy", ["accuracy"])
        module.fit(x, y, batch_size=8, verbose=0)
        if bare:
            module.train()
            loop.bare_step(module, torch.from_numpy(x), torch.from_numpy(y))()
        else:
            module.fit(x, y, batch_size=8, verbose=0, shuffle=False)
        return module.get_weights()

    for one, other in zip(trained(True), trained(False), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "wrong", (["--models", "lenet"], ["--rounds", "0"], ["--batch", "-1"], ["--steps", "7"])
)
def test_wrong_usage(wrong, capsys):
    assert loop.main(wrong) == 2
    assert "error: " in capsys.readouterr().err


def test_a_tiny_run(tmp_path, capsys):
    path = tmp_path / "loop.json"
    sizes = ["--steps", "10", "--rounds", "1", "--samples", "70", "--json", str(path)]
    assert loop.main(["--models", "article", *sizes]) == 0
    assert "augmented images" in capsys.readouterr().out
    result = report.read_json(path)
    assert [run["optimizer"] for run in result["loops"]] == ["sgd", "adam"]
    assert all(len(run["fit"]) == len(run["bare"]) == 1 for run in result["loops"])
    assert set(result["epochs"]) == set(loop.AUGMENTATIONS)
