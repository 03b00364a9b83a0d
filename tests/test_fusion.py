"""Layers that a Sequential joins give what they give alone, and `explain` says what runs."""

from __future__ import annotations

import pytest
import torch

import pyconvopt as pco
from pyconvopt import layers, models


def network():
    return models.Sequential(
        [
            layers.Conv2D(16, (3, 3), input_shape=(14, 14, 1)),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D((2, 2)),
            layers.Dropout(0.25),
            layers.Conv2D(32, (3, 3), activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )


def step(model, x):
    torch.manual_seed(5)
    model.zero_grad()
    y = model(x)
    y.square().sum().backward()
    return [y, *(p.grad for p in model.parameters()), *model.buffers()]


@pytest.mark.parametrize("training", [True, False])
def test_joined_layers_agree_with_single_ones(training):
    """A hook on every layer keeps them apart; the drawn masks differ, so dropout is off here."""
    torch.manual_seed(0)
    joined, single = network(), network()
    single.load_state_dict(joined.state_dict())
    joined.layers[4].rate = single.layers[4].rate = 0.0
    seen = []
    for layer in single.layers:
        layer.register_forward_hook(lambda layer, i, o: seen.append(layer.name))
    joined.train(training), single.train(training)
    x = torch.randn(8, 14, 14, 1)
    for ours, wanted in zip(step(joined, x), step(single, x), strict=True):
        assert torch.allclose(ours, wanted, rtol=1e-3, atol=1e-4)
    assert len(seen) == len(single.layers), "a hooked layer runs alone, so that its hook runs"


def test_explain_names_kernels_and_joined_layers():
    model = network().train()
    before = [b.clone() for b in model.buffers()]
    random = torch.get_rng_state()
    table = pco.explain(model, torch.zeros(4, 14, 14, 1))
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
    assert torch.equal(random, torch.get_rng_state())
    rows = {(r["layer"], r["op"], r["pass"]): r for r in table.rows}
    chain = next(layer for layer, op, _ in rows if op == "batch_norm")
    assert chain.startswith("conv2d+batch_normalization+") and chain.count("+") == 4
    assert rows[chain, "batch_norm", "forward"]["kernel"] == "batch_norm"
    assert rows[chain, "conv2d", "forward"]["kernel"] == "pixel"
    assert rows[chain, "conv2d", "data_gradient"]["kernel"] == "torch"
    pooled = rows["conv2d_1+max_pooling2d_1", "conv2d_max_pool", "forward"]
    assert pooled["flops"] == 2 * 4 * 4 * 4 * 32 * 9 * 16
    assert set(table.rows[0]) == {"layer", "op", "pass", "kernel", "reason", "flops", "bytes"}
    assert len(str(table).splitlines()) == len(table.rows) + 1


def test_explain_of_torch_modules_says_torch():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), pco.nn.Conv2d(8, 16, 3))
    rows = pco.explain(model, torch.zeros(1, 3, 8, 8)).rows
    assert rows[0]["kernel"] == "torch" and "module of torch" in rows[0]["reason"]
    assert {r["layer"] for r in rows} == {"0", "1"}
