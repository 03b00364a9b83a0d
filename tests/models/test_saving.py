"""Files of models: what an optimiser or a weight has that a file must not lose, or cannot hold."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pyconvopt import layers, models
from pyconvopt.models import saving

pytest.importorskip("safetensors")


def small() -> models.Sequential:
    return models.Sequential(
        [layers.Dense(4, "relu", input_shape=(3,)), layers.Dense(2, "softmax")]
    )


@pytest.mark.parametrize(
    ("base", "kept"),
    [(torch.optim.SGD, False), ("adam", True), ({"name": "sgd", "config": {"lr": 0.1}}, True)],
)
def test_an_optimizer_around_another(tmp_path, base, kept):
    model, spec = small(), {"name": "sam", "config": {"base": base}}
    model.compile(spec, "sparse_categorical_crossentropy")
    model.fit(np.ones((4, 3)), np.arange(4) % 2, verbose=0)
    if kept:
        model.save(tmp_path / "m")
        assert models.load(tmp_path / "m").trainer().optimizer_spec == spec
        return
    with pytest.warns(UserWarning, match=r"optimizer .*SGD.* is not known by a name") as warned:
        model.save(tmp_path / "m")
    assert warned[0].filename == __file__
    loaded = models.load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.predict(np.ones((4, 3))), model.predict(np.ones((4, 3))))
    with pytest.raises(RuntimeError, match="not compiled"):
        loaded.trainer()


def test_weights_frozen_one_by_one_stay_frozen(tmp_path):
    model = small()
    model.layers[0].weight.requires_grad_(False)
    model.layers[1].trainable = False
    model.layers[1].bias.requires_grad_(True)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.save(tmp_path / "m")
    loaded = models.load(tmp_path / "m")
    wanted = {name: each.requires_grad for name, each in model.named_parameters()}
    assert {name: each.requires_grad for name, each in loaded.named_parameters()} == wanted
    assert [layer.trainable for layer in loaded.layers] == [True, False]
    before = loaded.get_weights()
    loaded.fit(np.ones((4, 3)), np.zeros(4, int), verbose=0)
    changed = [not np.array_equal(*pair) for pair in zip(before, loaded.get_weights(), strict=True)]
    assert changed == [False, True, False, True]


def test_a_file_that_does_not_say_what_is_frozen():
    model = small()
    model.layers[1].trainable = False
    described = json.loads(json.dumps(saving.architecture(model)))
    del described["frozen"]
    again = saving.from_architecture(described)
    assert [each.requires_grad for each in again.parameters()] == [True, True, False, False]
