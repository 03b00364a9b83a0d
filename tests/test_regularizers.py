"""Penalties: the article's formulas with numbers by hand, patterns, their part in training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pyconvopt import layers, models, regularizers
from pyconvopt.training import Trainer


def test_formulas_and_gradients_by_hand():
    weight = torch.tensor([[1.0, -2.0], [0.5, 0.0]], requires_grad=True)
    # L1: 0.1·(1 + 2 + 0.5), gradient 0.1·sign(w); L2: 0.05·(1 + 4 + 0.25), gradient 0.1·w.
    cases = (
        (regularizers.L1(0.1), 0.35, [[0.1, -0.1], [0.1, 0.0]]),
        (regularizers.L2(0.1), 0.2625, [[0.1, -0.2], [0.05, 0.0]]),
        (regularizers.L1L2(0.1, 0.1), 0.6125, [[0.2, -0.3], [0.15, 0.0]]),
    )
    for regularizer, value, gradient in cases:
        penalty = regularizer(weight)
        assert penalty.item() == pytest.approx(value)
        (got,) = torch.autograd.grad(penalty, weight)
        torch.testing.assert_close(got, torch.tensor(gradient))


def test_l2_is_torchs_weight_decay_under_sgd():
    def one_step(weight_decay, patterns):
        torch.manual_seed(1)
        model = nn.Linear(3, 2)
        trainer = Trainer(
            model,
            lambda parameters: torch.optim.SGD(parameters, 0.1, weight_decay=weight_decay),
            "mse",
            regularizers=patterns,
        )
        trainer.fit((torch.ones(4, 3), torch.ones(4, 2)), batch_size=4, verbose=0)
        return model.weight.detach()

    ours = one_step(0.0, {"*": regularizers.L2(0.3)})
    torch.testing.assert_close(ours, one_step(0.3, None))
    assert not torch.allclose(ours, one_step(0.0, None))


class TestAttach:
    def test_patterns(self):
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
        assert regularizers.attach(model, {"[02].weight": "l2", "*.bias": regularizers.L1(1)}) == [
            "0.weight",
            "2.weight",
            "0.bias",
            "1.bias",
            "2.bias",
        ]
        expected = sum(0.005 * w.square().sum() for w in (model[0].weight, model[2].weight)) + sum(
            m.bias.abs().sum() for m in model
        )
        torch.testing.assert_close(regularizers.penalty(model), expected)

    def test_later_patterns_replace_and_none_removes(self):
        model = nn.Linear(2, 2)
        regularizers.attach(model, {"weight": "l1", "*": "l2"})
        regularizers.attach(model, {"bias": None})
        terms = regularizers.terms(model)
        assert [(term.parameter, term.regularizer) for term in terms] == [
            ("weight", regularizers.L2())
        ]

    def test_a_pattern_that_meets_nothing(self):
        with pytest.raises(ValueError, match=r"named like 'conv\*'; this model has weight, bias"):
            regularizers.attach(nn.Linear(2, 2), {"conv*": "l2"})

    def test_no_penalty_is_zero(self):
        assert regularizers.penalty(nn.Linear(2, 2)).item() == 0


def test_layer_arguments_enter_training_and_evaluation():
    model = models.Sequential(
        [
            layers.Dense(
                2,
                kernel_regularizer=regularizers.L2(0.5),
                bias_regularizer="l1",
                kernel_initializer="ones",
                bias_initializer="ones",
                input_shape=(3,),
            )
        ]
    )
    model.compile("sgd", "mse")
    x, y = np.zeros((4, 3)), np.ones((4, 2))
    # The loss itself is 0: what is left is 0.25·6 + 0.01·2.
    assert model.evaluate(x, y, verbose=0) == pytest.approx(1.52)
    history = model.fit(x, y, batch_size=4, verbose=0)
    assert history.history["loss"] == [pytest.approx(1.52)]
    # Gradient of the kernel: 0.5·w; sgd's rate is 0.01.
    np.testing.assert_allclose(model.get_weights()[0], 1 - 0.01 * 0.5, rtol=1e-6)


def test_refusals():
    with pytest.raises(ValueError, match="strength l must be 0 or more, got -1"):
        regularizers.L2(-1)
    with pytest.raises(ValueError, match="strength l must be 0 or more, got nan"):
        regularizers.L1(float("nan"))
    with pytest.raises(ValueError, match="unknown regularizer 'l3': did you mean 'l"):
        layers.Dense(2, kernel_regularizer="l3")
