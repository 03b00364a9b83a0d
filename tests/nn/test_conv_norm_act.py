"""ConvNormAct beside its parts run one by one, in training, evaluation and under surgery."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import pyconvopt as pco

CASES = {
    "plain": ({}, False),
    "residual": ({}, True),
    "relu6": ({"activation_layer": nn.ReLU6}, False),
    "hardswish": ({"activation_layer": nn.Hardswish}, False),
    "silu": ({"activation_layer": nn.SiLU}, True),
    "linear": ({"activation_layer": None}, True),
    "pointwise": ({"kernel_size": 1}, False),
    "depthwise": ({"groups": 32}, True),
    "strided": ({"stride": 2, "bias": True}, False),
    "dilated": ({"kernel_size": (3, 5), "dilation": 2}, False),
    "bare": ({"norm_layer": None, "activation_layer": None}, True),
    "group norm": ({"norm_layer": lambda channels: nn.GroupNorm(4, channels)}, False),
    "valid": ({"padding": 0}, False),
}


def both(options, seed=0):
    """A block of 32 channels, and torch's modules around the same weights."""
    torch.manual_seed(seed)
    block = pco.nn.ConvNormAct(32, 32, **options)
    for parameter in block.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    return block, nn.ModuleList(copy.deepcopy(pco.restore(nn.Sequential(*block))))


def expected(parts, x, residual):
    norms = (nn.BatchNorm2d, nn.GroupNorm)
    y = parts[0](x)
    rest = list(parts[1:])
    if rest and isinstance(rest[0], norms):
        y = rest.pop(0)(y)
    y = y if residual is None else y + residual
    for part in rest:
        y = part(y)
    return y


@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_beside_its_parts(case, training, order):
    options, with_residual = CASES[case]
    block, parts = both(options)
    inputs = []
    for model in (block, parts):
        model.train(training)
        torch.manual_seed(1)
        x = torch.randn(3, 32, 9, 11).contiguous(memory_format=order).requires_grad_()
        shape = parts[0](x.detach()).shape
        residual = torch.randn(shape).contiguous(memory_format=order).requires_grad_()
        inputs.append((x, residual if with_residual else None))
    for _ in range(2):
        y, wanted = block(*inputs[0]), expected(parts, *inputs[1])
        torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-4)
        assert y.stride() == wanted.stride()
    g = torch.randn(wanted.shape)
    y.backward(g)
    wanted.backward(g)
    pairs = [*zip(block.parameters(), parts.parameters(), strict=True)]
    pairs += [(a, b) for a, b in zip(*inputs, strict=True) if a is not None]
    for ours, theirs in pairs:
        scale = float(theirs.grad.abs().max())
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=2e-5 * scale + 1e-6)
    for ours, theirs in zip(block.buffers(), parts.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_evaluation_without_gradients(case):
    options, with_residual = CASES[case]
    block, parts = both(options)
    x = torch.randn(4, 32, 24, 24).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        for model in (block, parts):
            model.train()
            expected(model, x, None)
            model.eval()
        residual = torch.randn(parts[0](x).shape) if with_residual else None
        wanted = expected(parts, x, residual)
        torch.testing.assert_close(block(x, residual), wanted, rtol=1e-4, atol=1e-4)
        block[0].weight.data.mul_(2)  # seen by the next call
        parts[0].weight.data.mul_(2)
        wanted = expected(parts, x, residual)
        torch.testing.assert_close(block(x, residual), wanted, rtol=1e-4, atol=1e-4)


def test_folding_takes_place():
    block, _ = both({})
    rows = pco.explain(block.eval(), torch.zeros(4, 32, 24, 24)).rows
    assert [row["op"] for row in rows if row["pass"] == "forward"] == ["conv2d"]
    rows = pco.explain(block.train(), torch.zeros(4, 32, 24, 24)).rows
    assert {row["op"] for row in rows} == {"conv2d", "batch_norm"}


def test_pool_in_the_function():
    x, w = torch.randn(2, 16, 12, 12), torch.randn(32, 16, 3, 3)
    mean, var = torch.randn(32), torch.rand(32) + 0.5
    for training in (True, False):
        options = {"running_mean": mean.clone(), "running_var": var.clone(), "training": training}
        y = pco.functional.conv_norm_act(x, w, activation="relu", pool=True, **options)
        z = nn.functional.batch_norm(
            nn.functional.conv2d(x, w), mean.clone(), var.clone(), training=training
        )
        torch.testing.assert_close(y, nn.functional.max_pool2d(z.relu(), 2), rtol=1e-4, atol=1e-4)


def test_dropout_in_training_alone():
    block = pco.nn.ConvNormAct(8, 64, dropout=0.5, activation_layer=None)
    x = torch.randn(4, 8, 16, 16)
    share = float((block(x) == 0).float().mean())
    assert abs(share - 0.5) < 0.02
    assert not (block.eval()(x) == 0).any()
    block.train()[2].eval()
    assert not (block(x) == 0).any()


def test_state_loads_into_a_sequential_and_back():
    block = pco.nn.ConvNormAct(3, 8)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    plain.load_state_dict(block.state_dict())
    block.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(block(x), plain(x), rtol=1e-4, atol=1e-4)


def test_hooks_and_surgery():
    block, parts = both({})
    x = torch.randn(2, 32, 8, 8)
    seen = []
    handle = block[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    y = block(x)
    assert len(seen) == 1 and torch.equal(y, seen[0].relu())
    handle.remove()
    block[1] = nn.Identity()
    torch.testing.assert_close(block(x), parts[0](x).relu(), rtol=1e-4, atol=1e-4)
    block.append(nn.MaxPool2d(2))
    assert block(x).shape == (2, 32, 4, 4) and [*block[2:]] == [block[2], block[3]]


@pytest.mark.parametrize("training", [True, False])
def test_inside_other_things(training):
    block, _ = both({})
    model = nn.Sequential(block, nn.Conv2d(32, 4, 1)).train(training)
    x = torch.randn(2, 32, 8, 8)
    wanted = copy.deepcopy(model)(x)
    for other in (
        pco.accelerate(copy.deepcopy(model)),
        pco.restore(copy.deepcopy(model)),
        torch.compile(copy.deepcopy(model), backend="eager"),
    ):
        torch.testing.assert_close(other(x), wanted, rtol=1e-4, atol=1e-4)


def test_accelerate_joins_it_with_what_follows():
    model = nn.Sequential(pco.nn.ConvNormAct(3, 32), nn.MaxPool2d(2), pco.nn.ConvNormAct(32, 32))
    fast = pco.accelerate(copy.deepcopy(model))
    x = torch.randn(2, 3, 8, 8)
    assert {row["layer"] for row in pco.explain(fast, x).rows} == {"0.0+0.1+0.2+1", "2.0+2.1+2.2"}
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)


def test_errors_are_those_of_the_parts():
    block = pco.nn.ConvNormAct(3, 8)
    with pytest.raises(RuntimeError, match=r"3 channels, but got 4"):
        block(torch.randn(2, 4, 8, 8))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        block(torch.randn(1, 3, 1, 1))
    with pytest.raises(ValueError, match="expected 4D input"):
        block(torch.randn(3, 8, 8))
