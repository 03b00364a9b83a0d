"""Maps made again for backward: the same gradients to the bit, less kept, torch's rules obeyed."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import pyconvopt as pco

SHAPE = (16, 32, 48, 48)  # 4.5 MiB


def image(shape=SHAPE):
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def pair_of_layers(activation="relu", convolution=(32, 32, 3)):
    norm = pco.nn.BatchNorm2d(32)
    torch.nn.init.uniform_(norm.weight), torch.nn.init.normal_(norm.bias)
    return norm, pco.nn.Conv2d(*convolution), activation


def forward(layers, z):
    norm, conv, activation = layers
    y = pco.functional.batch_norm(
        z, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.training,
        activation=activation,
    )  # fmt: skip
    return y, conv(y)


def gradients(layers, z, recompute, **options):
    """Of a new run of copies; whether the convolution kept its input, too."""
    norm, conv, activation = copy.deepcopy(layers)
    z = z.clone().requires_grad_()
    with pco.settings(recompute=recompute):
        y, out = forward((norm, conv, activation), z)
        reference = weakref.ref(y)
        del y
        gc.collect()
        kept = reference() is not None or out.grad_fn.again is None
        out.square().sum().backward(**options)
    return [z.grad, *(p.grad for p in (*norm.parameters(), *conv.parameters()))], kept


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("convolution", [(32, 32, 3), (32, 48, 1), (32, 40, 3, 2, 1)], ids=str)
@pytest.mark.parametrize("activation", [None, "relu", "relu6", "hardswish"])
def test_the_same_to_the_bit(isa, activation, convolution, training):
    layers = pair_of_layers(activation, convolution)
    layers[0].train(training)
    z = image()
    again, kept = gradients(layers, z, True)
    wanted, kept_there = gradients(layers, z, False)
    assert not kept and kept_there
    assert all(torch.equal(a, b) for a, b in zip(again, wanted, strict=True))


def test_what_is_kept():
    layers, z = pair_of_layers(), image().requires_grad_()
    y, out = forward(layers, z)
    assert out.grad_fn.again is not None
    small = forward(layers, image((1, 32, 8, 8)))[1]
    assert small.grad_fn.again is None
    # What is written over after it was made cannot be made again.
    with torch.no_grad():
        y.mul_(2)
    assert layers[1](y).grad_fn.again is None
    # Nor what has more in it than its normalisation.
    norm, conv, _ = layers
    for more in ({"residual": image()}, {"dropout": 0.5}, {"pool": True}):
        y = pco.functional.batch_norm(
            z, None, None, norm.weight, norm.bias, True, activation="relu", **more
        )
        assert conv(y).grad_fn.again is None


def test_nothing_is_made_for_a_frozen_weight():
    norm, conv, activation = pair_of_layers()
    conv.requires_grad_(False)
    z = image().requires_grad_()
    out = forward((norm, conv, activation), z)[1]
    assert out.grad_fn.again is None
    out.sum().backward()
    assert z.grad is not None and conv.weight.grad is None


def test_after_the_normalisations_own_backward():
    layers = pair_of_layers()
    y, out = forward(layers, image().requires_grad_())
    y.sum().backward()  # lets go what the normalisation kept
    weight = layers[1].weight
    assert torch.autograd.grad(out.sum(), weight)[0].abs().sum() > 0
    assert layers[1](y).grad_fn.again is None


def test_twice_and_with_a_gradient_of_the_gradient():
    norm, conv, _ = pair_of_layers(convolution=(32, 8, 3))
    exact = [copy.deepcopy(each).double() for each in (norm, conv)]
    z = image()
    found = []
    for (n, c), x in (((norm, conv), z), (exact, z.double())):
        x = x.clone().requires_grad_()
        y = pco.functional.batch_norm(x, None, None, n.weight, n.bias, True, activation="relu")
        out = c(y)
        out.sum().backward(retain_graph=True)
        wanted = (x, n.weight, c.weight)
        first = torch.autograd.grad(out.square().mean(), wanted, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), wanted)
        found.append([*first, *second])
    for ours, theirs in zip(*found, strict=True):
        error = (ours.double() - theirs).abs().max() / theirs.abs().max()
        assert error < 1e-4


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_within_a_checkpoint(use_reentrant):
    torch.manual_seed(0)
    block = nn.Sequential(
        nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3)
    )
    block = pco.accelerate(block.to(memory_format=torch.channels_last))
    z = image().requires_grad_()
    found = []
    for run in (block, lambda x: checkpoint(block, x, use_reentrant=use_reentrant)):
        block.zero_grad()
        run(z).square().sum().backward()
        found.append([p.grad.clone() for p in block.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_its_setting():
    assert pco.settings.current()["recompute"] is True
    with pytest.raises(TypeError, match="recompute must be a bool, got 1"):
        pco.settings(recompute=1)
