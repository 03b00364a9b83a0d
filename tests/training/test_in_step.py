"""Clipping, proximal steps and max-norms within the step, beside a run that takes them apart from it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pyconvopt import constraints, optimizers, regularizers
from pyconvopt.training import Trainer


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def limited(model):
    """Zeros on one weight, bounds on both, a limit that is taken apart on the bias."""
    regularizers.attach(model, {"0.weight": regularizers.ProximalL1(0.2)})
    conv, dense = constraints.MaxNorm(0.6, axis=(0, 1, 2)), constraints.MaxNorm(0.7, axis=0)
    constraints.attach(model, {"0.weight": conv, "3.weight": dense, "3.bias": "non_neg"})
    return model


def trained(optimizer, model=None, **options):
    model = network() if model is None else model
    torch.manual_seed(1)
    x, y = torch.randn(40, 1, 6, 6), torch.randint(0, 3, (40,))
    trainer = Trainer(model, optimizer, "cross_entropy", **options)
    trainer.fit((x, y), epochs=3, batch_size=8, seed=0, verbose=0)
    return trainer


MAKE = {
    "sgd": (
        lambda p: optimizers.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    ),
    "adamw": (lambda p: optimizers.AdamW(p, lr=0.02), lambda p: torch.optim.AdamW(p, lr=0.02)),
}


@pytest.mark.parametrize(
    "options", [{}, {"clip_norm": 0.05}, {"clip_norm": 0.05, "clip_value": 0.01}]
)
@pytest.mark.parametrize("name", MAKE)
def test_as_apart(name, options):
    inside, apart = (trained(make, limited(network()), **options) for make in MAKE[name])
    assert inside.in_step is not None and apart.in_step is None
    assert len(inside.after_step.limits) == 1 and not inside.after_step.proximal
    assert len(apart.after_step.limits) == 3 and len(apart.after_step.proximal) == 1
    for a, b in zip(inside.model.parameters(), apart.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    weight = inside.model[0].weight
    assert (weight == 0).any() and (weight.flatten(1).norm(dim=1) < 0.601).all()


def test_clipping_alone_leaves_the_gradients():
    trainer = trained(MAKE["sgd"][0], clip_norm=1e-3)
    assert trainer.in_step is not None and trainer.clip is None
    norm = nn.utils.get_total_norm([p.grad for p in trainer.model.parameters()])
    assert norm > 1e-2


def test_nothing_to_do_is_nothing_to_call():
    assert trained(MAKE["sgd"][0]).in_step is None


def test_a_model_in_double_takes_them_apart():
    trainer = trained(MAKE["sgd"][0], limited(network()).double(), clip_norm=0.1)
    assert trainer.in_step is None and trainer.clip is not None
    assert len(trainer.after_step.limits) == 3


class Own(regularizers.ProximalL1):
    def shrink(self, weight, rate, step=0):
        with torch.no_grad():
            weight.zero_()


def test_a_proximal_step_of_ones_own_is_kept():
    model = network()
    regularizers.attach(model, {"0.weight": Own(0.1)})
    trainer = trained(MAKE["sgd"][0], model)
    assert trainer.in_step is None and not model[0].weight.any()


@pytest.mark.parametrize(
    ("module", "constraint", "bound"),
    [
        (nn.Linear(3, 2), constraints.MaxNorm(1.5), 1.5),
        (nn.Linear(3, 1), constraints.MaxNorm(2, axis=[0]), 2.0),
        (nn.Linear(3, 3), constraints.MaxNorm(2, axis=1), None),
        (nn.Linear(3, 3), constraints.UnitNorm(), None),
        (nn.Conv2d(3, 3, 3), constraints.MaxNorm(2, axis=(0, 1, 2)), 2.0),
        (nn.Conv2d(3, 3, 3), constraints.MaxNorm(2, axis=(0, 1, 3)), None),
        (nn.Conv2d(3, 3, 3), constraints.MaxNorm(2), None),
        (nn.Conv1d(3, 3, 3), constraints.MaxNorm(2, axis=(0, 1)), 2.0),
        (nn.ConvTranspose2d(4, 4, 3), constraints.MaxNorm(2, axis=(0, 1, 2)), 2.0),
        (nn.Embedding(4, 4), constraints.MaxNorm(2, axis=0), None),
        (nn.Embedding(4, 4), constraints.MaxNorm(2, axis=1), 2.0),
    ],
    ids=str,
)
def test_which_bounds_are_of_rows(module, constraint, bound):
    """And where one is, it gives what the constraint gives."""
    constraints.attach(module, {"weight": constraint})
    (limit,) = constraints.limits(module)
    assert limit.row_bound() == bound
    if bound is not None:
        weight = module.weight.detach().clone().mul_(5)
        with torch.no_grad():
            module.weight.mul_(5)
        limit.apply()
        norm = weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.dim() - 1))
        torch.testing.assert_close(module.weight.detach(), weight * norm.clamp(max=bound) / norm)
