"""Optimisers that ask for the gradient twice a step: what happens once, and what twice."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pyconvopt.training import Trainer
from tests.small_models import points


def sam(model, **options) -> Trainer:
    settings = {"lr": 1.0, "rho": 0.5}
    return Trainer(model, {"name": "sam", "config": settings}, "mse", **options)


@pytest.mark.parametrize("options", [{"clip_norm": 0.1}, {"clip_value": 0.1}])
def test_the_gradient_that_is_applied_is_clipped(options):
    """w = 1, x = 10, y = 0: the loss is 100·w², its gradient at 1.5 is 300."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    sam(model, **options).fit((torch.full((1, 1), 10.0), torch.zeros(1, 1)), verbose=0)
    assert model.weight.item() == pytest.approx(1 - 0.1)


def test_unclipped_by_hand():
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    sam(model).fit((torch.full((1, 1), 10.0), torch.zeros(1, 1)), verbose=0)
    assert model.weight.item() == pytest.approx(1 - 300)


def test_moving_statistics_follow_each_batch_once():
    """With a rate of 0 the weights stay, and so must be the statistics those of plain SGD."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    second = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    second.load_state_dict(first.state_dict())
    spec = {"name": "sam", "config": {"lr": 0.0, "rho": 5.0}}
    for model, optimizer in ((first, spec), (second, {"name": "sgd", "config": {"lr": 0.0}})):
        Trainer(model, optimizer).fit(points(), batch_size=16, seed=0, verbose=0)
    assert first[1].num_batches_tracked == 4
    for name, value in second.state_dict().items():
        torch.testing.assert_close(first.state_dict()[name], value)
