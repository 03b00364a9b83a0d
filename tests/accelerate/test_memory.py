"""Results used twice, shared, or written over: joining must not show."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pyconvopt as pco

from ..nn.helpers import assert_same
from .networks import as_written, image

BOUND = 1e-3


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.tied = nn.Conv2d(16, 16, 3, padding=1)
        self.tied.weight = self.conv.weight
        self.bn, self.relu = nn.BatchNorm2d(16), nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.bn(self.conv(self.stem(x))))
        y = self.bn(self.tied(x))
        y = self.relu(self.bn(self.conv(y)))
        return x + y + torch.relu(y), y


def test_shared_modules_tied_weights_and_results_used_twice():
    theirs, x = Shared(), image()
    fast = pco.accelerate(copy.deepcopy(theirs))
    assert fast.tied.weight is fast.conv.weight
    for a, b in zip(fast(x), theirs(x), strict=True):
        assert_same(a, b, BOUND)
    sum(t.square().mean() for t in fast(x)).backward()
    sum(t.square().mean() for t in theirs(x)).backward()
    for p, q in zip(fast.parameters(), theirs.parameters(), strict=True):
        assert (p.grad - q.grad).abs().max() <= BOUND * max(q.grad.abs().max(), 0.01)
    assert fast.bn.num_batches_tracked == theirs.bn.num_batches_tracked == 6
    assert_same(fast.bn.running_var, theirs.bn.running_var)


class InPlace(nn.Module):
    """Results written over after they were used: joining must not show."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.drop = nn.Dropout(0.0)

    def forward(self, x):
        x.mul_(2)
        z = self.conv(x)
        a = self.bn(z)
        z.mul_(0.5)  # batch norm has read it already
        y = F.relu(a + z)
        b = self.bn2(self.conv2(y))
        other = y.sin()
        out = torch.relu(b + other)
        other += 1
        out = self.drop(torch.max_pool2d(torch.relu(self.bn2(out)), 2))
        out += 1
        return out, other


def test_results_written_over():
    theirs = InPlace()
    fast = pco.accelerate(copy.deepcopy(theirs))
    x = image()
    given = [x.clone(), x.clone()]
    with torch.no_grad():
        for a, b in zip(fast(given[0]), theirs(given[1]), strict=True):
            assert_same(a, b, BOUND)
    assert torch.equal(*given), "the caller's tensor is written over as by torch"
    assert not as_written(fast)


class Normalized(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
        self.relu, self.nothing = nn.ReLU(inplace=True), nn.Identity()


class WrittenThroughAnotherName(Normalized):
    def forward(self, x):
        z = self.bn(self.conv(x))
        self.relu(z)
        return z


class SeenThroughAView(Normalized):
    def forward(self, x):
        z = self.bn(self.conv(x))
        seen = z.flatten(2)
        self.relu(z)
        return seen


class SeenThroughAnIdentity(Normalized):
    def forward(self, x):
        z = self.conv(x)
        same = self.nothing(z)
        seen = same.flatten(2)
        z.mul_(2)
        return self.relu(self.bn(z)).flatten(2) + seen


class WrittenByAPart(Normalized):
    class Part(nn.Module):
        def forward(self, x):
            return x.relu_() if x.mean() > -100 else x

    def __init__(self):
        super().__init__()
        self.part = self.Part()

    def forward(self, x):
        z = self.bn(self.conv(x))
        return self.bn(z.sin()) + z + self.part(z) + self.bn(z)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "network",
    [WrittenThroughAnotherName, SeenThroughAView, SeenThroughAnIdentity, WrittenByAPart],
)
def test_memory_with_several_names(network, training):
    theirs, x = network().train(training), image()
    fast = pco.accelerate(copy.deepcopy(theirs))
    with torch.no_grad():
        y, wanted = fast(x), theirs(x)
    assert_same(y, wanted, BOUND)
    assert fast._pyconvopt_plans.current is not None, "by a plan"
