"""The range test: its rules by hand, a problem whose best rate is known, and nothing left changed."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from pyconvopt import layers, models
from pyconvopt.data import ArrayLoader
from pyconvopt.randomness import random_states
from pyconvopt.training import RangeTest, Trainer, find_lr
from tests.small_models import dense, points


def test_rules_by_hand():
    rates = [10.0**power for power in range(-6, 2)]
    losses = [2.0, 1.9, 1.5, 0.6, 0.4, 0.3, 5.0, 9.0]
    test = RangeTest(rates, losses, losses)
    assert test.rate("minimum") == pytest.approx(1e-2)  # the smallest at 0.1, a tenth of it
    assert test.rate("steepest") == pytest.approx(1e-4)  # 1.9 to 0.6 about step 2
    assert test.rate("valley") == pytest.approx(10 ** (-6 + 10 / 3), rel=5e-3)  # 2/3 of 0 ... 5
    assert test.suggestion == test.rate("valley")
    with pytest.raises(ValueError, match="unknown rule 'vally': did you mean 'valley'"):
        test.rate("vally")


def test_a_quadratic_diverges_where_theory_says():
    """Gradient descent on (c/2)·w² is stable up to a rate of 2/c."""

    class Quadratic(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([3.0]))

        def forward(self, x):
            return x * self.weight

    curvature = 50.0
    x = torch.ones(640, 1)
    trainer = Trainer(
        Quadratic(),
        "sgd",
        loss=lambda outputs, targets: curvature / 2 * (outputs - targets).square().mean(),
    )
    test = find_lr(trainer, (x, torch.randn(640, 1) / 4), low=1e-4, high=10, steps=120)
    assert 2 / curvature < test.rates[-1] < 20 / curvature  # ended soon after it
    for rule in ("valley", "steepest", "minimum"):
        assert 1e-3 < test.rate(rule) < 2 / curvature


def everything(model, trainer) -> list:
    """All that training changes, as values that can be compared."""
    optimizer = trainer.optimizer
    return [
        {name: value.clone() for name, value in model.state_dict().items()},
        None if optimizer is None else copy.deepcopy(optimizer.state_dict()),
        [None if each.grad is None else each.grad.clone() for each in model.parameters()],
        [module.training for module in model.modules()],
        trainer.step_number,
        trainer.samples_seen,
        [(metric.total, metric.count) for metric in trainer.metrics],
        random_states(),
    ]


def equal(first, second) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[k], second[k]) for k in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second or (first != first and second != second)


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("kind", ["arrays", "ArrayLoader", "DataLoader", "sampler"])
def test_leaves_every_bit_as_it_was(fitted, kind):
    model = models.Sequential(
        [
            layers.Dense(8, input_shape=(2,)),
            layers.BatchNormalization(),
            layers.Dropout(0.2),
            layers.Dense(2, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = points()
    if fitted:
        model.fit(x, y, epochs=2, verbose=0)
    model.layers[1].eval()
    torch.rand(1), np.random.random(), random.random()
    generator = torch.Generator().manual_seed(3)
    data = {
        "arrays": (x, y),
        "ArrayLoader": ArrayLoader(x, y, 8, shuffle=True, seed=1),
        "DataLoader": DataLoader(
            TensorDataset(torch.from_numpy(x), torch.from_numpy(y)),
            8,
            shuffle=True,
            generator=generator,
        ),
        "sampler": DataLoader(
            TensorDataset(torch.from_numpy(x), torch.from_numpy(y)),
            8,
            sampler=WeightedRandomSampler([1.0] * len(x), len(x), generator=generator),
        ),
    }[kind]
    before = everything(model, model.trainer())
    place = getattr(data, "epoch", None), generator.get_state()
    weights, optimizer = list(model.parameters()), model.optimizer
    test = find_lr(model, data, steps=30, high=1.0)
    assert len(test.rates) == len(test.losses) > 10
    assert equal(everything(model, model.trainer()), before)
    assert equal([getattr(data, "epoch", None), generator.get_state()], list(place))
    assert all(a is b for a, b in zip(model.parameters(), weights, strict=True))
    assert model.optimizer is optimizer
    assert find_lr(model, data, steps=30, high=1.0).losses == test.losses


def test_a_ready_optimiser_is_not_trained_with():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(
        [{"params": [model.weight], "lr": 0.1}, {"params": [model.bias], "lr": 0.2}]
    )
    trainer = Trainer(model, optimizer)
    before = model.weight.detach().clone()
    find_lr(trainer, points(), steps=20)
    assert torch.equal(model.weight, before) and trainer.optimizer is None
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]


def test_picture_and_json(tmp_path):
    pytest.importorskip("matplotlib")
    test = find_lr(dense(), points(), steps=20)
    test.plot(tmp_path / "lr.png")
    assert (tmp_path / "lr.png").read_bytes().startswith(b"\x89PNG")
    import json

    read = json.loads(test.to_json())
    assert read["suggestion"] == read["by_rule"]["valley"] == test.suggestion


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"low": 1.0, "high": 0.1}, "must grow from low > 0 to high, got 1.0 and 0.1"),
        ({"steps": 3}, "steps must be 10 or more, got 3"),
        ({"rule": "vally"}, "did you mean 'valley'"),
        ({"low": 1e30, "high": 1e38}, "the loss is no number after . steps"),
    ],
)
def test_refusals(arguments, message):
    model = Trainer(nn.Linear(2, 2), "sgd", loss="mse")
    x, _ = points()
    with pytest.raises(ValueError, match=message):
        find_lr(model, (x, x), **arguments)


def test_a_generator_is_refused():
    with pytest.raises(ValueError, match="would use a generator up"):
        find_lr(dense(), iter([points()]))
