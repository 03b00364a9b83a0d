"""Gradients of many at once: ``jacobian(vectorize=True)`` and ``is_grads_batched``."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian

import pyconvopt as pco

ours = pco.nn
MODULES = {
    "conv": lambda: ours.Conv2d(16, 16, 3),
    "strided": lambda: ours.Conv2d(16, 32, 1, stride=2),
    "transposed": lambda: ours.ConvTranspose2d(16, 32, 2, stride=2),
    "norm": lambda: ours.BatchNorm2d(16),
    "norm in evaluation": lambda: ours.BatchNorm2d(16).eval(),
    "max pool": lambda: ours.MaxPool2d(2),
    "average": lambda: nn.Sequential(ours.Conv2d(16, 32, 1), ours.AvgPool2d(2)),
    "adaptive": lambda: nn.Sequential(ours.Conv2d(16, 32, 1), ours.AdaptiveAvgPool2d(2)),
    "relu": lambda: ours.ReLU(),
    "gelu": lambda: ours.GELU(),
    "tanh": lambda: ours.Tanh(),
    "silu": lambda: ours.SiLU(),
    "block": lambda: ours.ConvNormAct(16, 16),
}


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", MODULES)
def test_jacobian_at_once_is_that_row_by_row(name, order):
    torch.manual_seed(0)
    module, x = MODULES[name](), torch.randn(2, 16, 4, 4).contiguous(memory_format=order)

    def part(x):
        return module(x).flatten()[::7]

    torch.testing.assert_close(
        jacobian(part, x, vectorize=True), jacobian(part, x), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("channels", [False, True])
def test_dropout_has_one_mask_for_all(channels):
    drop = (ours.Dropout2d if channels else ours.Dropout)(0.5)
    x = torch.ones(2, 16, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = drop(x)
    g = torch.randn(3, *x.shape)
    (dx,) = torch.autograd.grad(y, x, g, is_grads_batched=True)
    torch.testing.assert_close(dx, g * y.detach())


def test_accelerated_and_the_loss():
    layers = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    model = nn.Sequential(*layers, nn.Linear(64, 3))
    fast, x = pco.accelerate(model), torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(jacobian(fast, x, vectorize=True), jacobian(model, x))
    loss, target = ours.CrossEntropyLoss(reduction="none"), torch.tensor([0, 2])
    logits = torch.randn(2, 3)
    torch.testing.assert_close(
        jacobian(lambda z: loss(z, target), logits, vectorize=True),
        jacobian(lambda z: loss(z, target), logits),
    )
