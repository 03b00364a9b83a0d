"""Batch norms whose result is not stored: the convolution behind them makes it while it reads."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import pyconvopt as pco
from pyconvopt import functional, layers, models
from pyconvopt.autograd.recompute import UnstoredMap
from pyconvopt.functional.unstored import unstored_batch_norm

from .helpers import kept_for_backward

JOINED = "batch norm of its input in the same pass"


def joined(model: nn.Module, x: torch.Tensor) -> int:
    """How many convolutions normalise what they read."""
    rows = pco.explain(model, x).rows
    return sum(JOINED in row["reason"] for row in rows if row["pass"] == "forward")


def image(*shape: int) -> torch.Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def pre_activation() -> nn.Module:
    """Batch norm first, as in DenseNet; no activation between the second pair."""
    return nn.Sequential(
        nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 1), nn.BatchNorm2d(64), nn.Conv2d(64, 32, 3),
    )  # fmt: skip


def bottleneck() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(32, 48, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU(inplace=True),
        nn.Conv2d(48, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU6(),
        nn.Conv2d(48, 48, 3, 1, 1, groups=48), nn.BatchNorm2d(48), nn.Hardswish(),
        nn.Conv2d(48, 32, 1), nn.BatchNorm2d(32),
    )  # fmt: skip


BLOCKS = {"pre_activation": (pre_activation, 2), "bottleneck": (bottleneck, 3)}


def run(model: nn.Module, x: torch.Tensor, recompute: bool = True) -> list[torch.Tensor]:
    """Result, gradients and buffers after a step of a copy."""
    model, x = copy.deepcopy(model), x.clone().requires_grad_()
    with pco.settings(recompute=recompute):
        y = model(x)
        y.square().mul(0.5).sum().backward()
    held = (*(p.grad for p in model.parameters()), *model.buffers())
    return [y.detach(), x.grad, *held]


@pytest.mark.parametrize("name", BLOCKS)
def test_the_same_to_the_bit(name, isa):
    torch.manual_seed(0)
    build, count = BLOCKS[name]
    model = pco.accelerate(build())
    x = image(4, 32, 18, 17)
    assert joined(model, x) == count
    unstored, stored = run(model, x), run(model, x, recompute=False)
    assert all(torch.equal(a, b) for a, b in zip(unstored, stored, strict=True))


@pytest.mark.parametrize("name", BLOCKS)
def test_against_torch(name):
    torch.manual_seed(0)
    model, x = BLOCKS[name][0](), image(4, 32, 18, 17)
    ours, wanted = run(pco.accelerate(model), x), run(model.double(), x.double())
    for a, b in zip(ours, wanted, strict=True):
        # A bias in front of a batch norm has no gradient but rounding.
        torch.testing.assert_close(
            a.double(), b.double(), rtol=2e-4, atol=2e-4 * float(b.abs().max() + 1)
        )


def test_what_is_not_stored_is_not_kept():
    """Behind z, a map of 18 MiB, no second one in forward: neither as a result nor for backward."""
    torch.manual_seed(0)
    model = pco.accelerate(
        nn.Sequential(nn.Conv2d(32, 64, 1), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 32, 1))
    )
    x = image(8, 32, 96, 96)
    _, kept = kept_for_backward(lambda: model(x))
    maps = [size for size in kept if size >= x.nbytes]
    assert sorted(maps) == [x.nbytes, 2 * x.nbytes]  # x and z


def test_gradient_of_the_gradient():
    torch.manual_seed(0)
    model, x = bottleneck(), image(3, 32, 6, 6)

    def twice(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(model(x).pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(g.pow(3).sum(), x)[0]

    ours, wanted = twice(pco.accelerate(model), x), twice(model.double(), x.double())
    assert (ours - wanted).norm() <= 1e-3 * wanted.norm()


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant):
    torch.manual_seed(0)
    model, x = pco.accelerate(pre_activation()), image(4, 32, 9, 9)
    other = copy.deepcopy(model)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    checkpoint(model, a, use_reentrant=reentrant).square().sum().backward()
    other(b).square().sum().backward()
    assert torch.equal(a.grad, b.grad)
    assert all(
        torch.equal(p.grad, q.grad)
        for p, q in zip(model.parameters(), other.parameters(), strict=True)
    )


def test_frozen_parts():
    torch.manual_seed(0)
    model, x = pco.accelerate(pre_activation()), image(4, 32, 9, 9)
    for frozen in (model[2], model[0], model[3]):
        frozen.requires_grad_(False)
        stored = run(model, x, recompute=False)
        unstored = run(model, x)
        assert all(
            a is b is None or torch.equal(a, b) for a, b in zip(unstored, stored, strict=True)
        )
    model.requires_grad_(False)
    assert not model(x).requires_grad


def test_evaluation_and_no_grad():
    torch.manual_seed(0)
    model, x = pre_activation(), image(4, 32, 9, 9)
    fast = pco.accelerate(model)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)  # in training
    model.eval(), fast.eval()
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)
    # A norm in evaluation in front of one in training.
    model[3].train(), fast[3].train()
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)


class Twice(nn.Module):
    """The norm's result is read by the convolution and by something else."""

    def __init__(self, change: str) -> None:
        super().__init__()
        self.norm, self.conv, self.change = nn.BatchNorm2d(32), nn.Conv2d(32, 32, 3, 1, 1), change

    def forward(self, z):
        y = self.norm(z)
        if self.change == "both":
            return self.conv(y) + y
        if (
            self.change == "in place"
        ):  # what the norm reads is written over before the convolution runs
            z.mul_(0)
            return self.conv(y)
        if self.change == "itself":
            return nn.functional.conv2d(y, y, padding=2)
        return self.conv(torch.sigmoid(y))


@pytest.mark.parametrize("change", ["both", "in place", "itself", "other"])
def test_what_others_see_is_stored(change):
    torch.manual_seed(0)
    model = Twice(change)
    fast, x = pco.accelerate(model), image(2, 32, 8, 8)
    assert joined(fast, x.clone()) == 0
    torch.testing.assert_close(fast(x.clone()), model(x.clone()), rtol=1e-4, atol=1e-4)


def test_a_hook_sees_the_map():
    model = pco.accelerate(pre_activation())
    seen = []
    model[2].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    x = image(4, 32, 9, 9)
    assert joined(model, x) == 1
    model(x)
    assert float(seen[-1].detach().min()) == 0 and seen[-1].stride() == x.stride()


def test_convolutions_that_cannot_make_it():
    """No kernel for it, a pool behind it, padding of two sizes, a type of torch's: the map is stored."""
    torch.manual_seed(0)
    z = image(2, 32, 9, 9).requires_grad_()
    gamma, beta = torch.rand(32), torch.randn(32)

    def made() -> UnstoredMap:
        found = unstored_batch_norm(z, None, None, gamma, beta, True, 0.1, 1e-5, activation="relu")
        assert isinstance(found, UnstoredMap) and found.shape == z.shape and found.dim() == 4
        return found

    wanted = torch.relu(nn.functional.batch_norm(z, None, None, gamma, beta, True))
    torch.testing.assert_close(made().stored(), wanted, rtol=1e-5, atol=1e-5)
    w3, w4, wide = (
        torch.randn(32, 32, 3, 3) / 17,
        torch.randn(32, 32, 4, 4) / 23,
        torch.randn(32, 4, 3, 3) / 6,
    )
    for ours, theirs in (
        (functional.conv2d(made(), wide, groups=8), torch.conv2d(wanted, wide, groups=8)),
        (functional.conv2d_max_pool(made(), w3), torch.max_pool2d(torch.conv2d(wanted, w3), 2)),
        (functional.conv2d(made(), w4, padding="same"), torch.conv2d(wanted, w4, padding="same")),
        (functional.conv2d(made(), w3, activation=torch.sigmoid), torch.sigmoid(torch.conv2d(wanted, w3))),
        (functional.conv2d(made(), w3, activation="relu"), torch.relu(torch.conv2d(wanted, w3))),
        (functional.conv2d_moments(made(), w4, None, 2)[0], torch.conv2d(wanted, w4, None, 2)),
    ):  # fmt: skip
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        g = torch.randn_like(ours)
        (a,), (b,) = (torch.autograd.grad(y, z, g, retain_graph=True) for y in (ours, theirs))
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_where_batch_norm_is_itself():
    x = image(2, 8, 4, 4)
    for input, training, eps in (
        (x, False, 1e-5),
        (x.contiguous(), True, 1e-5),
        (x.double(), True, 1e-5),
    ):
        vectors = torch.zeros(8, dtype=input.dtype), torch.ones(8, dtype=input.dtype)
        found = unstored_batch_norm(input, *vectors, None, None, training, 0.1, eps)
        assert isinstance(found, torch.Tensor)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        unstored_batch_norm(x[:1, :, :1, :1], None, None, None, None, True, 0.1, 1e-5)
    with pco.settings(recompute=False):
        assert isinstance(
            unstored_batch_norm(x, None, None, None, None, True, 0.1, 1e-5), torch.Tensor
        )


def test_sequential():
    torch.manual_seed(0)

    def convolution(**more):
        return layers.Conv2D(32, 3, padding="same", use_bias=False, **more)

    model = models.Sequential(
        [
            convolution(input_shape=(16, 16, 3)), layers.BatchNormalization(), layers.ReLU(),
            convolution(), layers.MaxPooling2D(), layers.BatchNormalization(),
            convolution(strides=2), layers.BatchNormalization(), layers.ReLU(), layers.Dropout(0.5),
            convolution(),
        ]
    ).train()  # fmt: skip
    x = torch.rand(8, 16, 16, 3)
    rows = pco.explain(model, x).rows
    # The first is pooled and the second padded unevenly, so both read stored maps; a dropout ends the third.
    assert not any(JOINED in row["reason"] for row in rows)
    model = models.Sequential(
        [*model.layers[:4], layers.BatchNormalization(), layers.ReLU(), convolution()]
    ).train()
    assert joined(model, x) == 2
    results = []
    for recompute in (True, False):
        torch.manual_seed(1)
        results.append(run_layers(model, x, recompute))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def run_layers(model, x, recompute):
    model = copy.deepcopy(model)
    with pco.settings(recompute=recompute):
        y = model(x)
        y.square().sum().backward()
    return [y.detach(), *(p.grad for p in model.parameters()), *model.buffers()]
