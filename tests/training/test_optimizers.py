"""Optimisers that need more of the loop than `step()`: SAM's second gradient, averages that are kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pyconvopt import optimizers
from pyconvopt.averaging import ScheduleFree
from pyconvopt.training import Trainer


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    x = torch.randn(24, 4)
    return x, x[:, :3].argmax(1)


def test_sam_gets_its_second_gradient():
    model, by_hand = net(), net()
    x, y = data()
    Trainer(model, lambda p: optimizers.get("sam", p, lr=0.1, rho=0.1)).fit(
        (x, y), epochs=3, batch_size=8, shuffle=False, verbose=0
    )
    optimizer = optimizers.get("sam", by_hand.parameters(), lr=0.1, rho=0.1)
    for _ in range(3):
        for batch in range(0, 24, 8):

            def closure(rows=slice(batch, batch + 8)):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(by_hand(x[rows]), y[rows])
                loss.backward()
                return loss

            optimizer.step(closure)
    for ours, wanted in zip(model.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(ours, wanted)


def test_sam_cannot_accumulate():
    with pytest.raises(ValueError, match=r"SAM computes the gradient of a batch twice.*got 2"):
        Trainer(net(), "sam", accumulate=2).fit(data(), verbose=0)


def test_schedule_free_is_evaluated_at_its_average():
    pytest.importorskip("pytorch_optimizer", reason="the extra `optimizers` is not installed")
    ends = []
    for callbacks in ([], [ScheduleFree()]):
        model = net()
        Trainer(model, "schedule_free_adamw", learning_rate=0.05, callbacks=callbacks).fit(
            data(), epochs=4, batch_size=8, seed=3, verbose=0
        )
        ends.append(model[0].weight.detach().clone())
    assert torch.equal(*ends)
