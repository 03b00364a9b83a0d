"""What of a model points into its accelerated copy, and what the copy shares."""

from __future__ import annotations

import copy
import weakref
from collections import OrderedDict, defaultdict, deque
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import pyconvopt as pco

X = torch.randn(2, 3, 12, 12)


class Dropping(nn.Module):
    """A convolution and a dropout that it reaches by another way than its name."""

    def __init__(self, reach):
        super().__init__()
        self.conv, self.drop = nn.Conv2d(3, 16, 3), nn.Dropout(0.5)
        self.held = reach(self)

    def dropped(self, y):
        return self.drop(y)

    def forward(self, x):
        return find(self.held)(self.conv(x))


class Pair(NamedTuple):
    drop: nn.Module
    rate: float


class Held:
    """An object of the user's, which also knows itself."""

    def __init__(self, drop):
        self.drop, self.me = drop, [self]


class Owner(Held):
    def __del__(self):
        self.drop.eval()  # would fail for an object that was never made


class Slotted:
    __slots__ = ("drop", "unset")

    def __init__(self, drop):
        self.drop = drop


def find(held):
    if isinstance(held, weakref.ref):
        return find(held())
    if isinstance(held, (dict, list, tuple, deque)):
        return find(next(iter(held.values() if isinstance(held, dict) else held)))
    return find(held.drop) if isinstance(held, (SimpleNamespace, Held, Slotted)) else held


@pytest.mark.parametrize(
    "reach",
    [
        lambda m: OrderedDict(d=m.drop),
        lambda m: deque([m.drop], maxlen=3),
        lambda m: SimpleNamespace(drop=[m.drop]),
        lambda m: partial(m.dropped),
        lambda m: partial(nn.Dropout.forward, m.drop),
        lambda m: lambda y: m.drop(y),
        lambda m: m.dropped,
        lambda m: [(m.drop,)],
        lambda m: Pair(m.drop, 0.5),
        lambda m: weakref.ref(m.drop),
        lambda m: lambda y, drop=m.drop: drop(y),
        lambda m: lambda y, *, drop=m.drop: drop(y),
        lambda m: defaultdict(list, d=m.drop),
        lambda m: Held(m.drop),
        lambda m: Slotted([m.drop]),
        lambda m: {"outer": SimpleNamespace(drop=Held(Slotted(m.drop)))},
    ],
    ids=[
        "OrderedDict", "deque", "namespace", "partial", "argument", "closure", "method", "tuple",
        "named tuple", "weakref", "default", "named default", "defaultdict", "object", "slots",
        "object in object",
    ],
)  # fmt: skip
def test_modules_are_those_of_the_copy(reach):
    model = Dropping(reach)
    fast = pco.accelerate(model).eval()
    assert not (fast(X) == 0).any()
    assert (model(X) == 0).any()
    assert not (pco.restore(fast)(X) == 0).any()
    fast.train()
    assert (fast(X) == 0).any()


def test_what_holds_itself_and_what_holds_nothing_stay():
    model = Dropping(lambda m: m.drop)

    def recursive(n):
        return recursive(n - 1) if n else model

    def unset():
        return later

    model.loop = [model.drop]
    model.loop.append(model.loop)
    model.recursive, model.unset = recursive, unset
    model.plain = plain = defaultdict(list, a=[1])
    fast = pco.accelerate(model)
    later = 1
    assert fast.recursive(0) is fast and fast.loop[0] is fast.drop
    assert fast.unset() == later and fast.plain is plain


def test_objects_are_copied_once_and_only_where_they_hold_a_module():
    model = Dropping(lambda m: Held(m.drop))
    model.again = [model.held]
    model.conv.keeper = model.held
    model.other = other = Held("no module")
    model.optimizer = optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.owner = owner = Owner(model.drop)
    optimizer.model = model
    fast = pco.accelerate(model)
    assert fast.held is not model.held and fast.held.me[0] is fast.held
    assert fast.again[0] is fast.held is fast.conv.keeper
    assert fast.other is other and fast.optimizer is optimizer and fast.owner is owner
    assert model.held.drop is model.drop and fast.held.drop is fast.drop


class Extractor:
    """Holds the model and what a hook of it has seen."""

    def __init__(self, model):
        self.model, self.seen = model, None
        model.conv.register_forward_hook(self.keep)

    def keep(self, module, inputs, output):
        self.seen = output


@pytest.mark.parametrize("inside", [False, True])
def test_hooks_of_an_object(inside):
    """It is copied if it is a part of the model."""
    model = Dropping(lambda m: m.drop)
    extractor = Extractor(model)
    if inside:
        model.conv.extractor = extractor
    fast = pco.accelerate(model)
    fast(X)
    assert (extractor.seen is None) is inside
    assert not inside or fast.conv.extractor.seen is not None


class Hooked(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.conv.register_forward_hook(self.keep)

    def keep(self, module, inputs, output):
        self.feature = output

    def forward(self, x):
        self.conv(x)
        return self.feature.relu()


def test_hooks_that_are_methods_belong_to_the_copy():
    model = Hooked()
    fast = pco.accelerate(model)
    torch.testing.assert_close(fast(X), copy.deepcopy(model)(X))
    assert not hasattr(model, "feature")


def test_a_forward_of_a_layers_own():
    for when in ("before", "after"):
        model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()).eval()
        fast = pco.accelerate(model)
        for which in (0, 1, 2):
            layer = (model if when == "before" else fast)[which]
            fast(X)
            old = layer.forward
            layer.forward = lambda y, old=old: old(y) + 1
        other = pco.accelerate(model) if when == "before" else fast
        plain = copy.deepcopy(model) if when == "before" else pco.restore(fast)
        torch.testing.assert_close(other(X), plain(X))
        assert float(other(X).detach().min()) >= 1


class Doubling(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


class Halved(nn.Module):
    def forward(self, w):
        return w / 2


@pytest.mark.parametrize("make", [Doubling, nn.Conv2d])
def test_parametrizations_made_after_accelerating(make):
    fast = pco.accelerate(nn.Sequential(make(3, 8, 3), nn.ReLU()))
    parametrize.register_parametrization(fast[0], "weight", Halved())
    wanted = fast(X)
    for other in (pco.restore(fast), pco.accelerate(fast), pco.accelerate(pco.restore(fast))):
        torch.testing.assert_close(other(X), wanted)
    assert not any("pyconvopt" in cls.__module__ for cls in type(pco.restore(fast)[0]).__mro__)


def test_a_shallow_copy_has_plans_of_its_own():
    class Scaled(nn.Sequential):
        scale = 1.0

        def forward(self, x):
            return super().forward(x) * self.scale

    fast = pco.accelerate(Scaled(nn.Conv2d(3, 16, 3)))
    before = fast(X)
    other = copy.copy(fast)
    other.scale = 3.0
    torch.testing.assert_close(other(X), 3 * before)
    torch.testing.assert_close(fast(X), before)
