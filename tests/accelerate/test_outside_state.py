"""Forwards that read, change or keep something beside their module's own attributes."""

from __future__ import annotations

import itertools
import random
from collections import OrderedDict, deque
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import pyconvopt as pco


class Scaled(nn.Module):
    """A convolution, times what `factor` says of the module."""

    def __init__(self, factor, **attributes):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.factor = factor
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.conv(x) * self.factor(self)


X = torch.randn(2, 3, 12, 12)


def ratio(model, change):
    """Its output after the change over that before."""
    before = model(X)
    model(X)
    change(model)
    return float((model(X) / before).detach().median())


@pytest.mark.parametrize(
    ("factor", "attributes", "change"),
    [
        (lambda m: m.cfg.s, {"cfg": SimpleNamespace(s=1.0)}, lambda m: setattr(m.cfg, "s", 3.0)),
        (lambda m: m.d["a"]["s"], {"d": {"a": {"s": 1.0}}}, lambda m: m.d["a"].update(s=3.0)),
        (lambda m: m.q[0].s, {"q": (SimpleNamespace(s=1.0),)}, lambda m: setattr(m.q[0], "s", 3.0)),
        (lambda m: m.q[-1], {"q": deque([1.0])}, lambda m: m.q.append(3.0)),
    ],
    ids=["namespace", "nested", "tuple", "deque"],
)
def test_objects_in_attributes_are_seen_to_change(factor, attributes, change):
    assert ratio(pco.accelerate(Scaled(factor, **attributes)), change) == pytest.approx(3.0)


@pytest.mark.parametrize(
    "source",
    [
        lambda: random.Random(0).random,
        lambda: np.random.default_rng(0).random,
        lambda: np.random.RandomState(0).rand,
        lambda: random.random,
    ],
    ids=["Random", "Generator", "RandomState", "module"],
)
def test_numbers_are_drawn_at_each_call(source):
    draw = source()
    holder = getattr(draw, "__self__", None)
    model = pco.accelerate(Scaled(lambda m: draw() + 0.1, holder=holder))
    assert len({float(model(X).detach().std()) for _ in range(4)}) == 4


def test_iterators_go_on():
    model = pco.accelerate(Scaled(lambda m: next(m.count), count=itertools.count(1)))
    assert [round(float((model(X) / model.conv(X)).detach().median())) for _ in range(3)] == [
        1,
        2,
        3,
    ]


class Keeping(nn.Module):
    """Keeps the map between somewhere."""

    def __init__(self, keep, **attributes):
        super().__init__()
        self.conv, self.keep = nn.Conv2d(3, 16, 3), keep
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        y = self.conv(x)
        self.keep(self, y)
        return y.relu()


def test_tensors_that_a_forward_keeps_are_tensors():
    log = []
    model = pco.accelerate(Keeping(lambda m, y: log.append(y)))
    results = [model(X) for _ in range(2)]
    assert [type(each) for each in log] == [torch.Tensor] * 2
    assert torch.equal(log[1].relu(), results[1])
    model = pco.accelerate(Keeping(lambda m, y: m.kept["list"].append(y), kept={"list": []}))
    model(X)
    assert [type(each) for each in model.kept["list"]] == [torch.Tensor]
    model = pco.accelerate(Keeping(lambda m, y: setattr(m.kept, "y", y), kept=SimpleNamespace()))
    y = model(X)
    assert torch.equal(model.kept.y.relu(), y)


def test_counters_in_plain_objects_count():
    def count(model, y):
        model.meter.n += 1

    model = pco.accelerate(Keeping(count, meter=SimpleNamespace(n=0)))
    for _ in range(3):
        model(X)
    assert model.meter.n == 3


class Asking(nn.Module):
    def __init__(self, ask):
        super().__init__()
        self.conv, self.ask = nn.Conv2d(3, 16, 3), ask

    def forward(self, x):
        return self.ask(self.conv(x))


@pytest.mark.parametrize(
    "ask",
    [
        lambda y: y * 2 if y.shape[-1] in {10, 20} else y,
        lambda y: y * {torch.float32: 2.0}.get(y.dtype, 1.0),
        lambda y: y.logits if hasattr(y, "logits") else y * 2,
        lambda y: y * 2 if isinstance(y, torch.Tensor) else y,
    ],
    ids=["set", "dictionary", "hasattr", "isinstance"],
)
def test_questions_about_values_get_torchs_answer(ask):
    model = Asking(ask)
    torch.testing.assert_close(pco.accelerate(model)(X), model(X))


def test_switches_of_the_thread_are_asked_for_at_each_call():
    model = Asking(lambda y: y.float() * 3 if torch.is_autocast_enabled("cpu") else y)
    fast = pco.accelerate(model)
    torch.testing.assert_close(fast(X), model(X))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(fast(X), model(X))
        assert fast(X).dtype is torch.float32
    asking = pco.accelerate(Asking(lambda y: y * (2 if torch.is_inference_mode_enabled() else 1)))
    with torch.no_grad():
        y = asking(X)
    with torch.inference_mode():
        torch.testing.assert_close(asking(X), 2 * y)


def test_a_forward_that_seeds():
    def noisy(y):
        torch.manual_seed(5)
        return y + torch.rand_like(y)

    model = pco.accelerate(Asking(noisy))
    assert torch.equal(model(X), model(X))


def test_results_keep_their_type():
    named = pco.accelerate(Asking(lambda y: OrderedDict(out=y, relu=y.relu())))(X)
    assert type(named) is OrderedDict and list(named) == ["out", "relu"]
