"""Hooks see and change what they saw and changed in torch."""

from __future__ import annotations

import copy

import pytest
from torch import nn

import pyconvopt as pco

from ..nn.helpers import assert_same
from .networks import ResNet, assert_same_network_step, image, pair_of, vgg

BOUND = 1e-3


@pytest.mark.parametrize("at", ["conv1", "bn1", "relu", "layer1", "layer1.0", "layer1.1.bn2"])
def test_hooks_see_what_they_saw(at):
    theirs, x = pair_of("resnet")
    fast = pco.accelerate(copy.deepcopy(theirs))
    fast(x), theirs(x)
    seen = {fast: [], theirs: []}
    handles = []
    for model, found in seen.items():
        module = model.get_submodule(at)
        handles += [
            module.register_forward_pre_hook(lambda m, i, f=found: f.append(i[0].detach().clone())),
            module.register_forward_hook(lambda m, i, o, f=found: f.append(o.detach().clone())),
        ]
    assert_same(fast(x), theirs(x), BOUND)
    assert len(seen[fast]) == len(seen[theirs]) > 0
    for a, b in zip(seen[fast], seen[theirs], strict=True):
        assert_same(a, b, BOUND)
        assert a.stride() == b.stride()
    for handle in handles:
        handle.remove()
    joined = {row["layer"] for row in pco.explain(fast, x).rows}
    assert "conv1+bn1+relu" in joined, "without its hook it is joined again"


def test_hooks_that_change_the_result_and_backward_hooks():
    theirs, x = pair_of("vgg")
    fast = pco.accelerate(copy.deepcopy(theirs))
    fast(x), theirs(x)
    seen = []
    for model in (fast, theirs):
        model[0][1].register_forward_hook(lambda m, i, o: 2 * o)
        model[0][4].register_full_backward_hook(lambda m, i, o: seen.append(o[0].clone()))
    assert_same_network_step(fast, theirs, x, BOUND)
    assert len(seen) == 2
    assert_same(*seen, BOUND)


def test_hooks_made_before_are_kept_and_can_be_removed():
    model, x = vgg(), image()
    seen = []
    handle = model[0][0].register_forward_hook(lambda m, i, o: seen.append(type(m)))
    fast = pco.accelerate(model)
    fast(x)
    handle.remove()
    fast(x)
    assert seen == [pco.nn.Conv2d]


def test_global_hooks_see_every_module():
    fast, x = pco.accelerate(ResNet()), image()
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, i, o: seen.append(m))
    try:
        fast(x)
    finally:
        handle.remove()
    assert set(seen) >= {m for m in fast.modules() if not list(m.children())}
