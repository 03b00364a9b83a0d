"""``torch.compile(backend="pyconvopt")``: joined steps on Dynamo's graphs."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pyconvopt import accelerate, explanation
from pyconvopt.accelerate import backend, fusion
from pyconvopt.accelerate.backend import pyconvopt_backend

from ..nn.helpers import assert_same, same_layout
from .networks import NETWORKS, assert_same_network_step, pair_of

BOUND = 1e-3


@pytest.fixture(autouse=True)
def _fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name):
    theirs, x = pair_of(name)
    ours = torch.compile(copy.deepcopy(theirs), backend=pyconvopt_backend, fullgraph=True)
    assert_same_network_step(ours, theirs, x, BOUND)
    ours.eval(), theirs.eval()
    with torch.no_grad():
        y, wanted = ours(x), theirs(x)
    assert_same(y, wanted, BOUND)
    assert same_layout(y, wanted)


def test_functions_are_joined(monkeypatch):
    """Batch norm, residual and ReLU of a block, whose parameters are inputs of the graph."""
    chains = []
    join = fusion.join
    monkeypatch.setattr(
        fusion, "join", lambda g, chain, *a: (chains.append(chain), join(g, chain, *a))
    )
    model, x = pair_of("resnet")
    torch.compile(model, backend=pyconvopt_backend)(x)
    found = {"+".join(member.kind for member in chain.members) for chain in chains}
    assert {"convolution+normalization+relu", "convolution+normalization+add+relu"} <= found
    chains.clear()
    with torch.no_grad():
        torch.compile(model.eval(), backend=pyconvopt_backend)(x)
    found = {"+".join(member.kind for member in chain.members) for chain in chains}
    assert "convolution+normalization+add+relu" in found
    assert not explanation.listening()


class Broken(nn.Module):
    """A graph break between two pieces."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)

    def forward(self, x):
        x = torch.relu(self.a(x))
        torch._dynamo.graph_break()
        return torch.max_pool2d(self.b(x).relu(), 2) * x.mean().item()


def test_graph_breaks():
    theirs, x = Broken(), torch.randn(2, 3, 12, 12)
    ours = torch.compile(copy.deepcopy(theirs), backend=pyconvopt_backend)
    assert_same_network_step(ours, theirs, x, BOUND)


@pytest.mark.parametrize("dynamic", [True, None])
def test_batches_of_several_sizes(dynamic):
    theirs, _ = pair_of("view")
    ours = torch.compile(copy.deepcopy(theirs), backend=pyconvopt_backend, dynamic=dynamic)
    for batch in (4, 3, 7):
        assert_same_network_step(ours, theirs, torch.randn(batch, 3, 16, 16), BOUND)


def test_changed_weights_are_seen():
    theirs, x = pair_of("vgg")
    inside = copy.deepcopy(theirs).eval()
    ours = torch.compile(inside, backend=pyconvopt_backend)
    theirs.eval()
    with torch.no_grad():
        for _ in range(2):
            assert_same(ours(x), theirs(x), BOUND)
            for model in (inside, theirs):
                model[0][0].weight.data.mul_(1.5)
                model[0][1].running_var.data.mul_(0.5)


def test_the_name_is_known():
    code = f"""
import torch, torch._dynamo, pyconvopt
fast = torch.compile(torch.nn.Conv2d(3, 16, 3), backend={backend.NAME!r})
print(fast(torch.zeros(1, 3, 8, 8)).shape)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert result.stdout.strip() == "torch.Size([1, 16, 6, 6])", result.stderr


def test_it_has_no_options():
    model = torch.compile(nn.ReLU(), backend=pyconvopt_backend, options={"level": 3})
    with pytest.raises(Exception, match="has no options, got level"):
        model(torch.zeros(1))


def without_gradients(m, x):
    with torch.no_grad():
        y = m.conv(x)
    return m.norm(y).relu()


def without_gradients_throughout(m, x):
    with torch.no_grad():
        y = m.norm(m.conv(x))
    return y.relu() * m.norm.weight.sum()


def in_bfloat16(m, x):
    with torch.autocast("cpu", torch.bfloat16):
        y = m.conv(x)
    return y.relu()


def between(m, x):
    y = m.conv(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = m.norm(y).relu()
    return m.conv(y.float()[:, :3])


@pytest.mark.parametrize(
    "body", [without_gradients, without_gradients_throughout, in_bfloat16, between]
)
def test_nothing_is_joined_across_a_switch_of_modes(body):
    model, x = Written(body), torch.randn(2, 3, 12, 12)
    other = copy.deepcopy(model)
    y, wanted = torch.compile(model, backend=pyconvopt_backend)(x), other(x)
    assert y.dtype is wanted.dtype and y.requires_grad is wanted.requires_grad
    torch.testing.assert_close(y, wanted)
    y.float().sum().backward(), wanted.float().sum().backward()
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert (ours.grad is None) is (theirs.grad is None)


class Written(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.conv, self.norm, self.body = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), body

    def forward(self, x):
        return self.body(self, x)


@pytest.mark.parametrize(
    "write",
    [
        lambda x: F.silu(x, True),
        lambda x: F.leaky_relu(x, 0.1, True),
        lambda x: F.hardtanh(x, -1.0, 0.5, True),
        lambda x: torch.ops.aten.relu_.default(x),
        lambda x: torch._foreach_mul_([x], 2.0),
        lambda x: x.__iadd__(1),
        lambda x: x.__setitem__(0, 1.0),
    ],
    ids=["silu", "leaky_relu", "hardtanh", "aten", "foreach", "iadd", "setitem"],
)
@pytest.mark.parametrize("through", ["accelerate", "compile"])
def test_what_writes_over_its_input(write, through):
    def body(m, x):
        y = m.conv(x)
        write(x)
        z = y.relu()
        write(y)
        return z + y + m.conv(x)

    model = Written(body)
    fast = accelerate(model) if through == "accelerate" else None
    fast = fast or torch.compile(model, backend=pyconvopt_backend)
    a = torch.randn(2, 3, 12, 12)
    b = a.clone()
    with torch.no_grad():
        torch.testing.assert_close(fast(a), model(b))
    torch.testing.assert_close(a, b)


def test_transforms_inside():
    model, x = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU()), torch.randn(2, 3, 8, 8)
    each = torch.compile(torch.vmap(lambda one: model(one[None])[0]), backend=pyconvopt_backend)
    torch.testing.assert_close(each(x), model(x))


def test_inductors_modes_change_nothing():
    model, x = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU()), torch.randn(2, 3, 8, 8)
    fast = torch.compile(model, backend="pyconvopt", mode="reduce-overhead")
    torch.testing.assert_close(fast(x), model(x))
