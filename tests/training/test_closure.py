"""Optimisers that ask for the gradient twice a step: what happens once, and what twice."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from pyconvopt import optimizers
from pyconvopt.optimizers import closures
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


SAM_WITHIN = {"name": "lookahead", "config": {"base": "sam", "k": 2, "lr": 0.5}}


@pytest.mark.parametrize(
    "optimizer", [torch.optim.LBFGS, SAM_WITHIN, partial(torch.optim.LBFGS, max_iter=3)]
)
def test_whatever_needs_a_closure_gets_one(optimizer):
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    trainer = Trainer(model, optimizer, "cross_entropy")
    losses = trainer.fit(points(), epochs=3, batch_size=64, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    with pytest.raises(ValueError, match=r"of a batch twice or more.*accumulate must be 1, got 2"):
        Trainer(nn.Linear(2, 2), optimizer, accumulate=2).fit(points(), verbose=0)


def test_lbfgs_is_torchs_own_loop():
    x, y = map(torch.from_numpy, points())
    found = []
    for by_hand in (True, False):
        torch.manual_seed(0)
        model = nn.Linear(2, 2)
        if by_hand:
            optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, line_search_fn="strong_wolfe")

            def closure(model=model, optimizer=optimizer):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()
                return loss

            optimizer.step(closure)
        else:
            spec = partial(torch.optim.LBFGS, lr=0.5, line_search_fn="strong_wolfe")
            trainer = Trainer(model, spec, "cross_entropy")
            trainer.fit((x, y), batch_size=len(x), shuffle=False, verbose=0)
        found.append(model.weight)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    ("make", "needs"),
    [
        (lambda p: torch.optim.LBFGS(p), True),
        (lambda p: optimizers.get("sam", p), True),
        (lambda p: optimizers.get("lookahead", p, base=torch.optim.LBFGS), True),
        (lambda p: optimizers.get("lookahead", p), False),
        (lambda p: optimizers.get("adam", p), False),
        (lambda p: torch.optim.Adam(p), False),
    ],
)
def test_who_needs_a_closure(make, needs):
    optimizer = make(nn.Linear(2, 2).parameters())
    assert closures.needs_closure(optimizer) == needs
    torch.optim.lr_scheduler.StepLR(optimizer, 1)  # puts a step of its own on the object
    assert closures.needs_closure(optimizer) == needs


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
