"""Constraints: Keras' definitions by hand and beside Keras, in layers, torch models, training."""

from __future__ import annotations

import copy
import os
import pickle
import re

import numpy as np
import pytest
import torch
from torch import nn

from pyconvopt import constraints, layers, models, optimizers
from pyconvopt.training import Trainer
from pyconvopt.training.after_step import AfterStep

os.environ.setdefault("KERAS_BACKEND", "torch")


def test_formulas_by_hand():
    weight = torch.tensor([[3.0, 0.0], [4.0, 0.5]])  # columns of norm 5 and 0.5
    for constraint, wanted in (
        (constraints.MaxNorm(1.0), [[0.6, 0.0], [0.8, 0.5]]),
        (constraints.MaxNorm(2.0, axis=1), [[2.0, 0.0], [4 * 2 / 65**0.5 * 2, 2 / 65**0.5]]),
        (constraints.UnitNorm(), [[0.6, 0.0], [0.8, 1.0]]),
        (constraints.MinMaxNorm(1.0, 2.0), [[1.2, 0.0], [1.6, 1.0]]),
        (constraints.MinMaxNorm(1.0, 2.0, rate=0.5), [[2.1, 0.0], [2.8, 0.75]]),
    ):
        torch.testing.assert_close(
            constraint(weight), torch.tensor(wanted), rtol=1e-5, atol=1e-6, msg=str(constraint)
        )
    assert constraints.NonNeg()(torch.tensor([-1.0, 0.5])).tolist() == [0.0, 0.5]


@pytest.mark.parametrize("axis", [0, [0, 1, 2], [0, 1], -1])
def test_beside_keras(axis):
    keras = pytest.importorskip("keras", reason="Keras is an optional test dependency")
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 5)).astype(np.float32)
    for name, settings in (
        ("MaxNorm", {"max_value": 1.3, "axis": axis}),
        ("UnitNorm", {"axis": axis}),
        ("NonNeg", {}),
        ("MinMaxNorm", {"min_value": 1.0, "max_value": 1.5, "rate": 0.3, "axis": axis}),
    ):
        theirs = getattr(keras.constraints, name)(**settings)(torch.from_numpy(kernel))
        ours = getattr(constraints, name)(**settings)(torch.from_numpy(kernel))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
        layer = layers.Conv2D(5, 3, kernel_constraint=getattr(constraints, name)(**settings))
        layer.build((None, 5, 5, 4))
        layer.set_weights([kernel, np.zeros(5)])
        constraints.apply(layer)
        np.testing.assert_allclose(layer.get_weights()[0], theirs.numpy(), rtol=1e-5, atol=1e-7)


def small_kernels(keras):
    """Keras' layer, this library's, torch's, and torch's weight from Keras' kernel."""
    return (
        (keras.layers.Conv1D(4, 3), layers.Conv1D(4, 3), nn.Conv1d(2, 4, 3), (9, 2)),
        (
            keras.layers.Conv2DTranspose(4, 3),
            layers.Conv2DTranspose(4, 3),
            nn.ConvTranspose2d(2, 4, 3),
            (5, 5, 2),
        ),
        (keras.layers.Dense(4), layers.Dense(4), nn.Linear(2, 4), (2,)),
    )


@pytest.mark.parametrize("axis", [0, (0, 1), -1])
@pytest.mark.parametrize("kind", range(3))
def test_every_kernel_in_keras_layout(kind, axis):
    keras = pytest.importorskip("keras", reason="Keras is an optional test dependency")
    theirs, ours, module, shape = small_kernels(keras)[kind]
    theirs.build((None, *shape)), ours.build((None, *shape))
    kernel = theirs.get_weights()[0]
    constraint = constraints.MaxNorm(0.1, axis)
    wanted = keras.constraints.MaxNorm(0.1, axis)(torch.from_numpy(kernel)).numpy()
    ours.set_weights([kernel, np.zeros(4)])
    constraints.set_on(ours, "weight", constraint)
    constraints.apply(ours)
    np.testing.assert_allclose(ours.get_weights()[0], wanted, rtol=1e-5, atol=1e-7)
    view = constraints.keras_view(module, "weight")
    with torch.no_grad():
        view.copy_(torch.from_numpy(kernel))
    constraints.attach(module, {"weight": constraint})
    constraints.apply(module)
    np.testing.assert_allclose(view.detach().numpy(), wanted, rtol=1e-5, atol=1e-7)


def test_embeddings_lie_as_in_keras():
    table = nn.Embedding(3, 2)
    constraints.attach(table, {"weight": constraints.UnitNorm(axis=1)})
    constraints.apply(table)
    torch.testing.assert_close(table.weight.norm(dim=1), torch.ones(3))


def test_an_axis_of_numpy():
    weight = torch.randn(3, 2)
    for axis in (np.int64(0), np.array([0, 1])):
        plain = 0 if axis.ndim == 0 else (0, 1)
        assert torch.equal(
            constraints.MaxNorm(1, axis)(weight), constraints.MaxNorm(1, plain)(weight)
        )


def test_whole_numbers_are_refused():
    model = nn.Linear(2, 2)
    model.counts = nn.Parameter(torch.ones(2, dtype=torch.int32), requires_grad=False)
    with pytest.raises(TypeError, match=r"parameter counts must be .* got dtype torch.int32"):
        constraints.attach(model, {"*": "non_neg"})


def owner(model, name):
    """The module that has a parameter, and what it calls it."""
    module, _, parameter = name.rpartition(".")
    return model.get_submodule(module), parameter


def constrained(name, axis, sgd):
    """A model whose weight of that name is too long for its limit, a trainer and data."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 5, 2), nn.Flatten(), nn.Linear(20, 5))
    constraints.attach(model, {name: constraints.MaxNorm(0.1, axis)})
    trainer = Trainer(model, lambda parameters: sgd(parameters, lr=0.5), "cross_entropy")
    return model, trainer, (torch.randn(8, 2, 3, 3), torch.arange(8) % 5)


class TestTraining:
    def test_keras_argument_holds_after_every_step(self):
        model = models.Sequential(
            [
                layers.Conv2D(
                    4,
                    3,
                    kernel_constraint=constraints.UnitNorm(axis=(0, 1, 2)),
                    bias_constraint="non_neg",
                    input_shape=(6, 6, 2),
                ),
                layers.BatchNormalization(gamma_constraint=constraints.MaxNorm(1.5)),
                layers.Flatten(),
                layers.Dense(3, "softmax", kernel_constraint=constraints.MaxNorm(0.5)),
            ]
        )
        model.compile("sgd", "sparse_categorical_crossentropy")
        x, y = torch.randn(12, 6, 6, 2), torch.arange(12) % 3
        before = model.get_weights()
        model.fit(x, y, batch_size=4, epochs=2, verbose=0)
        kernel, bias, gamma, *_, dense, _ = model.get_weights()
        np.testing.assert_allclose(np.sqrt((kernel**2).sum((0, 1, 2))), 1, rtol=1e-5)
        assert (bias >= 0).all() and np.sqrt((gamma**2).sum()) <= 1.5 + 1e-5
        assert np.sqrt((dense**2).sum(0)).max() <= 0.5 + 1e-6
        assert not np.array_equal(kernel, before[0])

    def test_one_step_is_keras(self):
        keras = pytest.importorskip("keras", reason="Keras is an optional test dependency")
        generator = np.random.default_rng(0)
        kernel = generator.normal(size=(4, 3)).astype(np.float32)
        x, y = generator.normal(size=(2, 8, 4)).astype(np.float32)
        results = []
        for kinds, rules, sequential, sgd in (
            (layers, constraints, models.Sequential, lambda p: torch.optim.SGD(p, 0.1)),
            (keras.layers, keras.constraints, keras.Sequential, keras.optimizers.SGD(0.1)),
        ):
            model = sequential(
                [
                    kinds.Input((4,)),
                    kinds.Dense(
                        3, kernel_constraint=rules.MinMaxNorm(0.5, 1.0), bias_constraint="non_neg"
                    ),
                ]
            )
            model.set_weights([kernel, np.zeros(3)])
            model.compile(sgd, "mse")
            model.fit(x, y[:, :3], batch_size=8, verbose=0)
            results.append(model.get_weights())
        for ours, theirs in zip(*results, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)

    def test_torch_models(self):
        model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(12, 2))
        met = constraints.attach(model, {"*.weight": constraints.MaxNorm(0.1, axis=(0, 1, 2)),
                                         "2.weight": constraints.UnitNorm(), "*.bias": None})  # fmt: skip
        assert met == ["0.weight", "2.weight", "0.bias", "2.bias"]
        trainer = Trainer(model, "sgd", "cross_entropy")
        trainer.fit((torch.randn(8, 1, 4, 4), torch.arange(8) % 2), verbose=0)
        norms = model[0].weight.flatten(1).norm(dim=1)
        assert norms.max() <= 0.1 + 1e-6
        torch.testing.assert_close(model[2].weight.norm(dim=1), torch.ones(2))

    @pytest.mark.parametrize(
        ("name", "axis"),
        [
            *(("2.weight", axis) for axis in (0, 1, -1, -2, (0, -1), [-2, 1])),
            *(("0.weight", axis) for axis in ((0, 1, 2), (-4, -3, -2), (1, 2, 3), (0, -1), -1)),
            *(("2.bias", axis) for axis in (0, -1)),
        ],
    )
    def test_within_the_step_as_after_it(self, name, axis):
        """SGD of this library bounds rows in its own pass; what torch's leaves is bounded after it."""
        made = []
        for sgd in (optimizers.SGD, torch.optim.SGD):
            model, trainer, data = constrained(name, axis, sgd)
            trainer.fit(data, verbose=0)
            made.append(model.get_parameter(name))
            view = constraints.keras_view(*owner(model, name))
            assert constraints.norms(view, axis).max().item() == pytest.approx(0.1, rel=1e-4)
        torch.testing.assert_close(*made, rtol=1e-5, atol=1e-7)

    @pytest.mark.parametrize(
        ("name", "axis"),
        [("2.weight", (0, 7)), ("2.weight", 2), ("0.weight", (0, -4)), ("2.bias", 1)],
    )
    @pytest.mark.parametrize("sgd", [optimizers.SGD, torch.optim.SGD])
    def test_an_axis_the_weight_does_not_have(self, name, axis, sgd):
        model, trainer, data = constrained(name, axis, sgd)
        shape = tuple(constraints.keras_view(*owner(model, name)).shape)
        message = re.escape(f"got {axis!r} for a weight of shape {shape}")
        with pytest.raises(ValueError, match=message):
            trainer.fit(data, verbose=0)

    def test_frozen_weights_are_left_alone(self):
        model = nn.Linear(2, 2)
        model.weight.requires_grad_(False)
        before = model.weight.clone()
        constraints.attach(model, {"weight": constraints.UnitNorm()})
        constraints.apply(model)
        assert torch.equal(model.weight, before)

    def test_without_any_there_is_nothing_to_call(self):
        model = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        assert not AfterStep(model, optimizer)
        constraints.attach(model, {"bias": "non_neg"})
        assert AfterStep(model, optimizer)

    def test_a_function_of_ones_own(self):
        model = nn.Linear(2, 3)
        constraints.attach(model, {"weight": lambda w: torch.full_like(w, w.shape[0])})
        constraints.apply(model)
        assert model.weight.unique().tolist() == [2.0], "Keras' layout: two inputs first"

    def test_copies_and_pickles_train_on(self):
        model = models.Sequential(
            [layers.Dense(2, kernel_constraint=constraints.UnitNorm(), input_shape=(2,))]
        )
        model.compile("sgd", "mse")
        data = np.ones((4, 2)), np.ones((4, 2))
        model.fit(*data, verbose=0)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            other.fit(*data, verbose=0)
            np.testing.assert_allclose((other.get_weights()[0] ** 2).sum(0), 1, rtol=1e-5)


def test_saved_and_loaded(tmp_path):
    pytest.importorskip("safetensors")
    model = models.Sequential(
        [
            layers.Dense(
                2,
                kernel_constraint=constraints.MaxNorm(3, axis=(0,)),
                bias_constraint="non_neg",
                activity_regularizer="l2",
                input_shape=(2,),
            )
        ]
    )
    model.save(tmp_path / "model.safetensors")
    layer = models.load(tmp_path / "model.safetensors").layers[0]
    assert layer.kernel_constraint == constraints.MaxNorm(3, axis=[0])
    assert layer.bias_constraint == constraints.NonNeg()
    for name in constraints.TABLE:
        method = constraints.get(name)
        assert constraints.get(constraints.describe(method)) == method


def test_refusals():
    with pytest.raises(ValueError, match="unknown constraint 'maxnrm': did you mean 'max_norm'"):
        layers.Dense(2, kernel_constraint="maxnrm")
    with pytest.raises(ValueError, match="max_value must be 0 or more, got -1"):
        constraints.MaxNorm(-1)
    with pytest.raises(ValueError, match="in order, got 2 and 1"):
        constraints.MinMaxNorm(2, 1)
    with pytest.raises(ValueError, match=r"rate must lie in 0 ... 1, got 1.5"):
        constraints.MinMaxNorm(rate=1.5)
    with pytest.raises(
        ValueError, match=r"axis must name axes .* got 2 for a weight of .*\(2, 2\)"
    ):
        constraints.UnitNorm(axis=2)(torch.ones(2, 2))
    for axis in ("0", 0.0, None, (0, 0), (0, -2)):
        with pytest.raises(ValueError, match="axis must name axes of the weight"):
            constraints.UnitNorm(axis=axis)(torch.ones(2, 2))
    with pytest.raises(ValueError, match="no parameter is named like 'x'"):
        constraints.attach(nn.Linear(1, 1), {"x": "non_neg"})
