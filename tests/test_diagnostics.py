"""`diagnostics.activations`: saturated units, dead ReLUs, gradients by layer; nothing is changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import pyconvopt as pco
from pyconvopt import diagnostics, layers, models


def column(report, name):
    return [row[name] for row in report.rows]


def test_saturation_by_hand():
    x = torch.tensor([[-9.0, 0.0, 1.0, 9.0]])
    model = nn.Sequential(nn.Sigmoid(), nn.Identity())
    assert column(diagnostics.activations(model, x), "saturated") == [0.5, None]
    # tanh(1) = 0.76; σ(1) lies 2·0.73 - 1 = 0.46 of the way from the middle to its end.
    assert diagnostics.activations(nn.Sequential(nn.Tanh()), x, limit=0.7).rows[0][
        "saturated"
    ] == pytest.approx(0.75)
    assert diagnostics.activations(model, x, limit=0.45).rows[0]["saturated"] == 0.75


@pytest.mark.parametrize("name", ["sigmoid", "hard_sigmoid", "tanh", "hard_tanh"])
def test_activations_of_layers(name):
    model = models.Sequential(
        [layers.Dense(3, name, kernel_initializer="ones", input_shape=(1,)), layers.Dense(1)]
    )
    report = diagnostics.activations(model, [[100.0], [0.0], [-100.0], [100.0]])
    assert column(report, "saturated") == [0.75, None]
    assert column(report, "note") == ["saturated", ""]


def test_dead_units_are_counted_by_channel():
    model = models.Sequential(
        [
            layers.Conv2D(4, 1, activation="relu", input_shape=(3, 3, 1)),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(2, "relu"),
        ]
    )
    model.set_weights(
        [
            np.array([1.0, -1.0, 1.0, -1.0]).reshape(1, 1, 1, 4),
            np.array([0.0, 0.5, 0.0, 0.0]),
            np.ones((4, 2)),
            np.array([-100.0, 0.0]),
        ]
    )
    x = torch.ones(5, 3, 3, 1)
    x[0, 1, 1] = 0.25  # there the second filter is 0.25: one place is enough to be alive
    report = diagnostics.activations(model, x)
    assert column(report, "dead") == [0.25, None, None, 0.5]
    assert column(report, "note") == ["", "", "", "dead"]
    assert column(report, "layer") == [layer.name for layer in model.layers]


def test_gradients_are_those_of_training():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x, y = torch.randn(6, 3), torch.arange(6) % 2
    report = diagnostics.activations(model, x, y)
    assert all(parameter.grad is None for parameter in model.parameters())
    nn.functional.cross_entropy(model(x), y).backward()
    wanted = [
        torch.cat([p.grad.flatten() for p in module.parameters()]).norm().item()
        for module in (model[0], model[2])
    ]
    got = column(report, "gradient")
    assert got[1] is None and [got[0], got[2]] == pytest.approx(wanted, rel=1e-5)


def test_gradients_vanish_through_sigmoids_and_not_through_relus():
    def model(activation):
        torch.manual_seed(0)
        return models.Sequential(
            [
                layers.Dense(16, activation, input_shape=(8,)),
                *[layers.Dense(16, activation) for _ in range(7)],
                layers.Dense(3, "softmax"),
            ]
        )

    x, y = torch.randn(64, 8), torch.arange(64) % 3
    deep = diagnostics.activations(model("sigmoid"), x, y, "sparse_categorical_crossentropy")
    assert deep.rows[0]["note"] == "vanishing" and deep.rows[-1]["note"] == ""
    relu = diagnostics.activations(model("relu"), x, y, "sparse_categorical_crossentropy")
    assert "vanishing" not in column(relu, "note")
    assert relu.rows[0]["gradient"] > 100 * deep.rows[0]["gradient"]


def test_a_compiled_models_loss_and_a_final_sigmoid():
    model = models.Sequential([layers.Dense(1, "sigmoid", input_shape=(1,))])
    model.compile("sgd", "binary_crossentropy")
    model.set_weights([np.array([[1.0]]), np.array([0.0])])
    report = diagnostics.activations(model, [[8.0], [0.0]], [1.0, 1.0])
    # The loss takes logits, the table shows σ(8) and σ(0); the gradient is mean (σ - 1)·(x, 1).
    assert report.rows[0]["saturated"] == 0.5
    slope = torch.tensor([8.0, 0.0]).sigmoid() - 1
    by_hand = torch.stack([(slope * torch.tensor([8.0, 0.0])).mean(), slope.mean()]).norm()
    assert report.rows[0]["gradient"] == pytest.approx(by_hand.item(), rel=1e-5)


def test_nothing_is_changed():
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    model[1].eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    diagnostics.activations(model, torch.randn(8, 2), torch.arange(8) % 2)
    random_after = torch.get_rng_state()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert [module.training for module in model] == [True, False, True, True]
    assert not any(module._forward_hooks for module in model)
    torch.set_rng_state(random)
    torch.randn(8, 2)
    assert torch.equal(torch.get_rng_state(), random_after)


def test_the_printed_table():
    text = str(
        diagnostics.activations(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), torch.zeros(3, 2))
    )
    lines = text.splitlines()
    assert lines[0].split() == list(diagnostics.COLUMNS)
    assert len(lines) == 3 and "Linear" in lines[1] and "%" in lines[2]


def test_not_finite():
    model = nn.Sequential(nn.Linear(1, 1))
    report = diagnostics.activations(model, [[float("inf")]])
    assert report.rows[0]["note"] == "not finite"


def test_refusals():
    model = models.Sequential([layers.Dense(3, "softmax", input_shape=(2,))])
    with pytest.raises(ValueError, match=r"label 7 is out of range"):
        diagnostics.activations(model, torch.zeros(2, 2), [0, 7])


def dead_from_norm():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.ReLU6()
    )
    nn.init.constant_(model[1].bias, -100.0)
    nn.init.constant_(model[3].bias, 100.0)
    return model


@pytest.mark.parametrize("prepare", [lambda model: model, pco.accelerate])
def test_modules_of_this_library_and_accelerated_ones(prepare):
    report = diagnostics.activations(prepare(dead_from_norm()), torch.randn(4, 3, 8, 8))
    assert column(report, "dead") == [None, None, 1.0, None, 0.0]
    x = torch.tensor([[-9.0, 9.0]])
    ours = nn.Sequential(pco.nn.ReLU(), pco.nn.Tanh())
    assert column(diagnostics.activations(ours, x), "dead") == [0.5, None]
    assert column(diagnostics.activations(ours, x), "saturated") == [None, 0.5]


def test_every_rectifier_of_an_architecture():
    report = diagnostics.activations(models.resnet18(num_classes=3), torch.randn(2, 3, 32, 32))
    assert sum(dead is not None for dead in column(report, "dead")) == 17


@pytest.mark.parametrize("function", [torch.tanh, nn.functional.tanh, pco.functional.tanh])
def test_functions_as_activations(function):
    model = models.Sequential(
        [layers.Dense(1, function, kernel_initializer="ones", input_shape=(1,))]
    )
    assert column(diagnostics.activations(model, [[9.0], [0.0]]), "saturated") == [0.5]


def test_what_is_no_rectifier_and_a_range_of_ones_own():
    x = -torch.ones(2, 3)
    leaky = models.Sequential([layers.ReLU(negative_slope=0.1, input_shape=(3,))])
    assert column(diagnostics.activations(leaky, x), "dead") == [None]
    assert diagnostics.activations(nn.Sequential(nn.Hardtanh(-2, 2)), x).rows[0]["saturated"] == 0
    assert diagnostics.activations(nn.Sequential(nn.Hardtanh(-1, 0)), x).rows[0]["saturated"] == 1


def test_a_layer_called_twice_has_two_rows():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.relu = nn.Linear(2, 2), nn.ReLU()

        def forward(self, x):
            return self.relu(-self.linear(self.relu(self.linear(x))) - 100)

    model = Twice()
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    x, y = torch.ones(3, 2), torch.zeros(3, dtype=torch.long)
    report = diagnostics.activations(model, x, y)
    names = ["linear", "relu", "linear (call 2)", "relu (call 2)"]
    assert column(report, "layer") == names
    assert column(report, "dead") == [None, 0.0, None, 1.0]
    assert [each is None for each in column(report, "gradient")] == [False, True, True, True]
