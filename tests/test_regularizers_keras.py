"""Penalties beside `keras.regularizers`: values, gradients, and what they do to a training step."""

from __future__ import annotations

import os
from functools import partial

import numpy as np
import pytest
import torch

from pyconvopt import layers, models, regularizers

os.environ.setdefault("KERAS_BACKEND", "torch")


@pytest.mark.parametrize("shape", [(3, 3, 4, 5), (6, 4)], ids=str)
class TestBesideKeras:
    """Keras leaves the half out of L2: its l2(l / 2) is L2(l)."""

    @pytest.mark.parametrize(
        ("ours", "name", "settings"),
        [
            (regularizers.L1(0.3), "L1", {"l1": 0.3}),
            (regularizers.L2(0.3), "L2", {"l2": 0.15}),
            (regularizers.L1L2(0.2, 0.3), "L1L2", {"l1": 0.2, "l2": 0.15}),
        ],
        ids=["L1", "L2", "L1L2"],
    )
    def test_value_and_gradient(self, shape, ours, name, settings):
        keras = pytest.importorskip("keras", reason="Keras is an optional test dependency")
        kernel = torch.from_numpy(np.random.default_rng(0).normal(size=shape).astype(np.float32))
        results = []
        for regularizer in (ours, getattr(keras.regularizers, name)(**settings)):
            weight = kernel.clone().requires_grad_()
            value = regularizer(weight)
            value.backward()
            results.append((value.detach(), weight.grad))
        torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


def test_orthogonal_is_zero_where_keras_is():
    """Two measures of one thing: orthonormal filters have no penalty in either."""
    keras = pytest.importorskip("keras", reason="Keras is an optional test dependency")
    weight = torch.nn.init.orthogonal_(torch.empty(4, 6))
    theirs = keras.regularizers.OrthogonalRegularizer(0.1)(weight)
    assert float(theirs) == pytest.approx(0, abs=1e-5)
    assert float(regularizers.Orthogonal(0.1)(weight)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("place", ["kernel", "bias", "activity"])
def test_a_trained_layer_beside_keras(place):
    """The penalty enters the loss and the step as it does in Keras."""
    keras = pytest.importorskip("keras", reason="Keras is an optional test dependency")
    generator = np.random.default_rng(0)
    kernel, bias = generator.normal(size=(4, 3)), generator.normal(size=3)
    x, y = generator.normal(size=(2, 8, 4)).astype(np.float32)
    results = []
    for kinds, penalty, sequential, sgd in (
        (layers, regularizers.L1L2(0.1, 0.2), models.Sequential, partial(torch.optim.SGD, lr=0.1)),
        (
            keras.layers,
            keras.regularizers.L1L2(0.1, 0.1),
            keras.Sequential,
            keras.optimizers.SGD(0.1),
        ),
    ):
        layer = kinds.Dense(3, "tanh", **{f"{place}_regularizer": penalty})
        model = sequential([kinds.Input((4,)), layer])
        model.set_weights([kernel, bias])
        model.compile(sgd, "mse")
        history = model.fit(x, y[:, :3], batch_size=8, verbose=0)
        results.append([*model.get_weights(), history.history["loss"][0]])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
