"""Accelerated networks beside torch's: outputs, strides, gradients, statistics, every mode."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import pyconvopt as pco

from ..nn.helpers import assert_same, same_layout
from .networks import NETWORKS, assert_same_network_step, pair_of, vgg

BOUND = 1e-3
"""Of the RMS: several layers, each within 2e-5 forward, with batch norms dividing in between."""

FORMATS = [torch.contiguous_format, torch.channels_last]


def both(name):
    theirs, x = pair_of(name)
    return pco.accelerate(copy.deepcopy(theirs)), theirs, x


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_step(name, memory_format, training):
    ours, theirs, x = both(name)
    x = x.contiguous(memory_format=memory_format)
    if name == "view" and memory_format is torch.channels_last:
        for model in (ours, theirs):
            with pytest.raises(RuntimeError, match="view size is not compatible"):
                model(x)
        return
    ours.train(training), theirs.train(training)
    for _ in range(2):
        assert_same_network_step(ours, theirs, x, BOUND)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_evaluation_without_gradients(name, memory_format):
    ours, theirs, x = both(name)
    ours.eval(), theirs.eval()
    for model in (ours, theirs):
        if name != "view":
            model.to(memory_format=memory_format)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            y, wanted = ours(x), theirs(x)
            assert_same(y, wanted, BOUND)
            assert same_layout(y, wanted)


@pytest.mark.parametrize("name", NETWORKS)
def test_joins_and_plans(name):
    """Every network runs by a plan; none falls back to its forward as written."""
    ours, _, x = both(name)
    ours(x)
    plans = ours._pyconvopt_plans
    assert plans.current is not None and not plans.as_written
    assert any("+" in row["layer"] for row in pco.explain(ours, x).rows)


@pytest.mark.parametrize("name", ["resnet", "unet", "view"])
def test_double(name):
    ours, theirs, x = both(name)
    ours, theirs = ours.double(), theirs.double()
    y, wanted = ours(x.double()), theirs(x.double())
    assert y.dtype == torch.float64
    assert_same(y, wanted, 1e-12)


def test_autocast():
    ours, theirs, x = both("resnet")
    with torch.autocast("cpu", torch.bfloat16):
        y, wanted = ours(x), theirs(x)
    assert y.dtype == wanted.dtype == torch.bfloat16
    assert_same(y.float(), wanted.float(), 0.1)


def test_double_backward():
    results = []
    for model, x in zip(both("resnet")[:2], [torch.randn(4, 3, 16, 16)] * 2, strict=True):
        x = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        parameters = list(model.parameters())
        second = torch.autograd.grad(g.square().sum(), parameters, allow_unused=True)
        results.append([t for t in second if t is not None])
    assert len(results[0]) == len(results[1])
    for ours, wanted in zip(*results, strict=True):
        assert_same(ours, wanted, 1e-2)


def test_function_transforms():
    ours, theirs, x = both("resnet")
    ours.eval(), theirs.eval()

    def loss(model):
        return lambda p: torch.func.functional_call(model, p, (x,)).square().sum()

    found = [torch.func.grad(loss(m))({k: p.detach() for k, p in m.named_parameters()})
             for m in (ours, theirs)]  # fmt: skip
    for name, wanted in found[1].items():
        assert_same(found[0][name], wanted, BOUND)


def test_functional_call_takes_the_other_weights():
    ours, theirs, x = both("resnet")
    ours.eval(), theirs.eval()
    other = {k: p.detach() * 0.5 for k, p in theirs.named_parameters()}
    with torch.no_grad():
        for _ in range(2):
            y = torch.func.functional_call(ours, other, (x,))
            assert_same(y, torch.func.functional_call(theirs, other, (x,)), BOUND)
            assert_same(ours(x), theirs(x), BOUND)


def test_gradient_accumulation():
    ours, theirs, x = both("resnet")
    for model in (ours, theirs):
        for part in x.chunk(2):
            model(part).square().mean().backward()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_same(p.grad, q.grad, BOUND)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing(reentrant):
    class Checkpointed(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            x = checkpoint(self.model.layer1, self.model.conv1(x), use_reentrant=reentrant)
            return self.model.layer2(x)

    _, theirs, x = both("resnet")
    theirs = Checkpointed(theirs)
    ours = pco.accelerate(copy.deepcopy(theirs))
    y, wanted = ours(x), theirs(x)
    assert ours in ours._pyconvopt_plans.as_written, "a graph would forget the checkpoint"
    assert_same(y, wanted, BOUND)
    assert_same_network_step(ours, theirs, x, BOUND)


def test_dropout_drops_its_share_and_scales():
    """Everything before is deterministic: a kept element is the undropped one, scaled."""
    model = pco.accelerate(vgg(0.0)[0:2])
    x = torch.randn(8, 3, 16, 16)
    whole = model(x)
    model[1][4].p = 0.25  # read at each call
    y = model(x)
    alive = whole > 0
    kept = (y != 0) & alive
    assert_same(y[kept], whole[kept] / 0.75, 1e-4)
    share = kept.sum().item() / alive.sum().item()
    assert abs(share - 0.75) < 4 * (0.75 * 0.25 / alive.sum().item()) ** 0.5
    torch.manual_seed(3)
    first = model(x)
    torch.manual_seed(3)
    assert torch.equal(model(x), first)


def test_several_steps_of_training_stay_together():
    ours, theirs, x = both("vgg")
    target = torch.arange(4) % 5
    for model in (ours, theirs):
        optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
        for _ in range(5):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), target).backward()
            optimizer.step()
    for p, q in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert_same(p.float(), q.float(), 1e-2)
    with torch.no_grad():
        assert_same(ours.eval()(x), theirs.eval()(x), 1e-2)
