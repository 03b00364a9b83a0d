"""Forwards with flags, data-dependent branches and side effects: nothing is frozen into a plan."""

from __future__ import annotations

import copy
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pyconvopt as pco

from ..nn.helpers import assert_same
from .networks import BasicBlock, as_written, image

BOUND = 1e-3


class Flagged(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.scale, self.taps = nn.Conv2d(3, 16, 3), 1.0, [1]

    def forward(self, x, offset=None, double=False):
        x = F.relu(self.conv(x)) * self.scale * sum(self.taps)
        x = x if offset is None else x + offset
        x = -x if self.training else x
        return 2 * x if double else x


def test_flags_and_optional_arguments():
    theirs, x = Flagged(), image()
    fast = pco.accelerate(copy.deepcopy(theirs))
    calls = [
        lambda m: m(x),
        lambda m: m(x, torch.ones(())),
        lambda m: m(x, offset=torch.ones(())),
        lambda m: m(x, None, True),
        lambda m: m(x, double=True),
    ]
    for change in (lambda m: None, lambda m: setattr(m, "scale", 3.0), lambda m: m.eval(),
                   lambda m: m.taps.append(2), lambda m: m.train()):  # fmt: skip
        change(fast), change(theirs)
        for call in calls:
            assert_same(call(fast), call(theirs), 1e-5)


def test_an_attribute_that_changes_at_each_step_stops_the_tracing():
    theirs = nn.Sequential(Flagged())
    fast, x = pco.accelerate(copy.deepcopy(theirs)), image()
    for step in range(12):
        for model in (fast, theirs):
            model[0].scale = float(step)
        assert_same(fast(x), theirs(x), 1e-5)
    assert fast[0] in as_written(fast) and fast not in as_written(fast)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls, self.seen = 0, []

    def forward(self, x):
        self.calls += 1
        self.seen.append(x.shape[0])
        return x


class DataDependent(nn.Module):
    def forward(self, x):
        return x if x.mean() > 0 else -x


class Randomly(nn.Module):
    def forward(self, x):
        return x * random.random()


class RandomTensor(nn.Module):
    def forward(self, x):
        return x * torch.rand(1)


class Stopped(nn.Module):
    def forward(self, x):
        with torch.no_grad():
            y = x.sin()
        return x + y


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, g):
        return g


class Rounding(nn.Module):
    apply_rounding = staticmethod(StraightThrough.apply)

    def forward(self, x):
        return self.apply_rounding(x)


class OfType(nn.Module):
    def forward(self, x):
        return [x] if isinstance(x, torch.Tensor) else x


class FirstOf(nn.Module):
    def forward(self, x):
        return x[0]


@pytest.mark.parametrize(
    "parts",
    [
        [Counting], [DataDependent], [Randomly], [RandomTensor], [Stopped], [Rounding],
        [OfType, FirstOf], [Counting, DataDependent, Stopped],
    ],
    ids=lambda parts: "+".join(p.__name__ for p in parts),
)  # fmt: skip
def test_what_a_graph_would_get_wrong_runs_as_written(parts):
    theirs = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), *[part() for part in parts],
        BasicBlock(16, 16),
    )  # fmt: skip
    fast, x = pco.accelerate(copy.deepcopy(theirs)), image()
    for sign in (1, -1, 1):
        results = []
        for model in (fast, theirs):
            random.seed(1), torch.manual_seed(1)
            results.append(model(sign * x))
        assert_same(*results, BOUND)
    assert_same_network_step_seeded(fast, theirs, x)
    assert fast not in as_written(fast)
    for ours, plain in zip(fast, theirs, strict=True):
        if isinstance(plain, Counting):
            assert (ours.calls, ours.seen) == (plain.calls, plain.seen)
    names = {row["layer"] for row in pco.explain(fast, x).rows}
    assert "0+1+2" in names, "the rest is joined"


def caught(ask, error):
    """Twice the map where the question has an answer."""

    def scale(x):
        try:
            return 2 * x if ask(x) else -x
        except error:
            return x

    return scale


ASKING = {
    "str": lambda x: 2 * x if "cpu" in str(x.device) else x,
    "repr": lambda x: 2 * x if "float" in repr(x.dtype) else x,
    "format": lambda x: 2 * x if f"{x.dim()}" == "4" else x,
    "dtype": lambda x: 2 * x if x.dtype is torch.float32 else x,
    "grad_fn": lambda x: 2 * x if x.grad_fn is not None else x,
    "is_cuda": lambda x: 2 * x if x.is_cuda is False else x,
    "setting": lambda x: setattr(x, "grad", None) or 2 * x,
    "caught float": caught(lambda x: float(x.detach().mean()) < 9, (TypeError, ValueError)),
    "caught int": caught(lambda x: int(x.sum()) < 99999, Exception),
    "caught len": caught(len, Exception),
    "caught branch": caught(lambda x: x.mean() < 9, Exception),
    "caught loop": caught(list, Exception),
    "caught type": caught(lambda x: isinstance(x, torch.Tensor), Exception),
    "caught name": caught(lambda x: not hasattr(x, "no_such_name"), Exception),
    "caught draw": caught(lambda x: torch.rand(1) < 9, Exception),
    "caught gradients": caught(lambda x: without_gradients(x).mean() is not None, Exception),
}


def without_gradients(x):
    with torch.no_grad():
        return x.abs()


class Applying(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("name", ASKING)
def test_what_a_symbol_would_answer_about_itself_or_the_forward_catches(name):
    theirs = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), Applying(ASKING[name])
    )
    fast, x = pco.accelerate(copy.deepcopy(theirs)), image()
    for _ in range(2):
        assert_same(fast(x), theirs(x), BOUND)
    assert as_written(fast) == {fast[3]}
    assert_same(pco.accelerate(theirs[3])(x), theirs[3](x))


def test_sizes_that_are_used_do_not_stop_the_tracing():
    def reshape(x):
        batch, channels, *_ = x.shape[0], x.shape[1]
        n = batch
        n += channels
        return x.flatten(2).view(batch, channels, -1) * n + x.new_zeros(batch, channels, 1)

    theirs = nn.Sequential(nn.Conv2d(3, 16, 3), Applying(reshape))
    fast, x = pco.accelerate(copy.deepcopy(theirs)), image()
    assert_same(fast(x), theirs(x), BOUND)
    assert not as_written(fast)


def assert_same_network_step_seeded(ours, theirs, x):
    random.seed(2), torch.manual_seed(2)
    gradients = []
    for model in (ours, theirs):
        random.seed(2), torch.manual_seed(2)
        model.zero_grad()
        model(x).square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert (a - b).abs().max() <= BOUND * max(b.abs().max(), 1e-3)
