"""``torch.compile(backend="pyconvopt")``: joined steps on Dynamo's graphs."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from pyconvopt import explanation
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
