"""Frozen models: weights prepared once, everything behind a convolution in its pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pyconvopt as pco
from pyconvopt.accelerate import frozen

from ..nn.helpers import assert_same
from .networks import NETWORKS, image, pair_of

BOUND = 1e-3


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_sizes_and_settings_that_change(name, memory_format):
    """The weights are prepared anew where another kernel is chosen: no result rests on stale ones."""
    if name == "view" and memory_format is torch.channels_last:
        pytest.skip("views of channels_last maps are refused by torch too")
    theirs, x = pair_of(name)
    theirs.eval()
    fast = pco.accelerate(theirs, frozen=True)
    x = x.contiguous(memory_format=memory_format)
    with torch.inference_mode():
        for _ in range(2):
            for part in (x, x[:1], x[:3]):
                assert_same(fast(part), theirs(part), BOUND)
            for changed in ({"winograd": False}, {"isa": "baseline"}):
                with pco.settings(**changed):
                    assert_same(fast(x), theirs(x), BOUND)
    assert_same(fast(x), theirs(x), BOUND)  # with autograd on, and an input without gradient


class Activations(nn.Module):
    """Each activation behind a convolution of each kernel, with and without batch norm and residual."""

    def __init__(self, make) -> None:
        super().__init__()
        kinds = ((16, 16, 3, 1), (16, 24, 1, 1), (24, 24, 3, 24))
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, kernel, padding=kernel // 2, groups=groups)
            for a, b, kernel, groups in kinds
        )
        self.norm = nn.BatchNorm2d(24)
        self.act = make(inplace=True)

    def forward(self, x):
        first, second, third = self.convs
        x = self.act(first(x))
        y = self.act(self.norm(second(x)))
        return self.act(third(y) + y)


@pytest.mark.parametrize("make", [nn.ReLU, nn.ReLU6, nn.Hardswish])
def test_activations(make):
    model = Activations(make).eval()
    nn.init.normal_(model.norm.running_mean), nn.init.uniform_(model.norm.running_var, 0.5, 2)
    x = 4 * image(2, 16, 12, 12)
    fast = pco.accelerate(model, frozen=True)
    with torch.no_grad():
        assert_same(fast(x), model(x), BOUND)


@pytest.mark.parametrize("make", [nn.ReLU6, nn.Hardswish])
def test_batch_norm_takes_the_activation_along_in_training(make):
    model = nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), make())
    fast = pco.accelerate(model)
    x = 5 * image(4, 3, 10, 10).contiguous(memory_format=torch.channels_last)
    rows = pco.explain(fast, x).rows
    assert any(make.__name__.lower() in row["reason"] for row in rows)
    gradients = []
    for each in (model, fast):
        each.zero_grad()
        y = each(x)
        (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for wanted, ours in zip(*gradients, strict=True):
        assert_same(ours, wanted, BOUND)


class WeightsOfTheInput(nn.Module):
    """The filters are mixed for each input, and normalised or not (Yang et al. 2019, CondConv)."""

    def __init__(self, normalized: bool) -> None:
        super().__init__()
        self.filters = nn.Parameter(torch.randn(2, 16, 16, 3, 3))
        self.norm = nn.BatchNorm2d(16) if normalized else nn.Identity()

    def forward(self, x):
        share = x.mean((0, 2, 3))[:2].softmax(0)
        weight = (share.view(2, 1, 1, 1, 1) * self.filters).sum(0)
        return torch.relu(self.norm(torch.nn.functional.conv2d(x, weight, padding=1)))


@pytest.mark.parametrize("normalized", [False, True])
def test_weights_made_from_the_input_are_no_constants(normalized):
    model = WeightsOfTheInput(normalized).eval()
    fast = pco.accelerate(model, frozen=True)
    with torch.inference_mode():
        for _ in range(3):
            x = 3 * torch.randn(2, 16, 12, 12).contiguous(memory_format=torch.channels_last)
            assert_same(fast(x), model(x), BOUND)


class Broadcast(nn.Module):
    """What is added is of another shape than the map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)) + self.pool(x))


def test_a_residual_that_is_broadcast_and_an_image_without_batch():
    model = Broadcast().eval()
    fast = pco.accelerate(model, frozen=True)
    x = torch.randn(2, 16, 12, 12).contiguous(memory_format=torch.channels_last)
    conv = nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU()).eval()
    fast_conv = pco.accelerate(conv, frozen=True)
    with torch.inference_mode():
        for _ in range(2):
            assert_same(fast(x), model(x), BOUND)
            assert_same(fast_conv(x[0]), conv(x[0]), BOUND)


class HalfOfTheChannels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        kept, taken = x.chunk(2, 1)
        return torch.cat([kept, torch.relu(self.conv(taken))], 1)


def test_a_map_with_gaps():
    model = HalfOfTheChannels().eval()
    fast = pco.accelerate(model, frozen=True)
    x = torch.randn(2, 32, 12, 12).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        for _ in range(2):
            assert_same(fast(x), model(x), BOUND)


def test_batch_norm_without_statistics_normalises_by_the_batch():
    model = nn.Sequential(
        nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16, track_running_stats=False), nn.ReLU()
    ).eval()
    fast = pco.accelerate(model, frozen=True)
    with torch.inference_mode():
        for _ in range(2):
            x = torch.randn(4, 16, 12, 12).contiguous(memory_format=torch.channels_last)
            assert_same(fast(x), model(x), BOUND)


class Auxiliary(nn.Module):
    """A branch that nothing reads, before the others or after them."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.conv, self.aux = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1)
        self.norm, self.first = nn.BatchNorm2d(24), first

    def forward(self, x):
        if self.first:
            self.norm(self.aux(x)).relu()
        y = torch.relu(self.conv(x))
        if not self.first:
            self.norm(self.aux(y)).relu()
        return y


@pytest.mark.parametrize("first", [True, False])
def test_what_nothing_reads_is_not_computed(first):
    model = Auxiliary(first).eval()
    fast = pco.accelerate(model, frozen=True)
    x = image(2, 16, 12, 12)
    with torch.inference_mode():
        for _ in range(3):
            assert_same(fast(x), model(x), BOUND)
    assert len(sequence_of(fast).steps) == 1


def with_a_head():
    """Layers whose own weights a sequence reads: nothing is folded into them."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 32, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10), nn.ReLU(), nn.Linear(10, 10),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("which", [0, 1], ids=["original", "frozen"])
def test_memory_that_is_shared_with_other_processes(which):
    """``share_memory`` gives the weights other memory and frees what they had."""
    model = with_a_head()
    fast = pco.accelerate(model, frozen=True)
    x = image(2, 3, 12, 12)
    with torch.inference_mode():
        wanted = model(x)
        for _ in range(2):
            assert_same(fast(x), wanted, BOUND)
        before = sequence_of(fast).weights
        (model, fast)[which].share_memory()
        taken = [torch.full_like(p, torch.nan) for p in model.parameters() for _ in range(20)]
        for _ in range(3):
            assert_same(fast(x), wanted, BOUND)
    assert taken and sequence_of(fast).weights is not before, "prepared anew"


@pytest.mark.parametrize("called", [False, True], ids=["before", "after"])
def test_other_parameters_for_one_call(called):
    model = nn.Sequential(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU()).eval()
    fast = pco.accelerate(model, frozen=True)
    x = image(2, 16, 12, 12)
    if called:
        fast(x)
    others = {name: torch.rand_like(p) for name, p in fast.named_parameters()}
    for _ in range(2):
        with pytest.raises(RuntimeError, match="was changed after accelerate"):
            torch.func.functional_call(fast, others, (x,))
        assert_same(fast(x), model(x), BOUND)


def test_a_parameter_of_the_original_that_is_replaced():
    model = nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU()).eval()
    fast = pco.accelerate(model, frozen=True)
    fast(image(2, 16, 12, 12))
    model[0].weight = nn.Parameter(torch.rand_like(model[0].weight))
    with pytest.raises(RuntimeError, match="was changed after accelerate"):
        fast(image(2, 16, 12, 12))


def sequence_of(fast):
    """The one sequence of the model's one plan."""
    ((plan,),) = fast._pyconvopt_plans.plans.values()
    found = [getattr(each, "__self__", None) for each in plan.run.__globals__.values()]
    (sequence,) = [each for each in found if isinstance(each, frozen.FrozenSequence)]
    return sequence


def test_one_copy_of_the_weights_for_all_batches():
    kept = []
    model = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1)).eval()
    fast = pco.accelerate(model, frozen=True)
    with torch.inference_mode():
        for batch in (2, 4, 8):
            for _ in range(2):
                fast(image(batch, 32, 16, 16).contiguous(memory_format=torch.channels_last))
            kept.append(sequence_of(fast).weights.floats())
    assert len(sequence_of(fast).known) == 3 and len(set(kept)) == 1


class Switched(nn.Module):
    """Its forward looks at an attribute, at a list and at its children."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.more = nn.ModuleList([nn.ReLU()])
        self.twice, self.names = False, ["first"]

    def forward(self, x):
        for name in self.names:
            x = getattr(self, name)(x)
        for layer in self.more:
            x = layer(x)
        return x + x if self.twice else x


CHANGES = {
    "an attribute": lambda model: setattr(model, "twice", True),
    "a list": lambda model: model.names.append("second"),
    "a child": lambda model: model.more.insert(0, nn.Tanh()),
    "a child's name": lambda model: model.more.append(nn.Sigmoid()),
    "a hook": lambda model: model.first.register_forward_hook(lambda m, x, y: y * 3),
    "a hook before": lambda model: model.register_forward_pre_hook(lambda m, x: x[0] * 3),
}


@pytest.mark.parametrize("name", CHANGES)
def test_plans_hear_of_every_change(name):
    model = Switched().eval()
    fast = pco.accelerate(model, frozen=True)
    x = image(2, 16, 8, 8)
    with torch.inference_mode():
        for _ in range(3):
            assert_same(fast(x), model(x), BOUND)
        before = model(x)
        taken_back = [CHANGES[name](each) for each in (model, fast)]
        assert not torch.allclose(model(x), before)
        for _ in range(3):
            assert_same(fast(x), model(x), BOUND)
        if "hook" in name:
            for handle in taken_back:
                handle.remove()
            for _ in range(3):
                assert_same(fast(x), before, BOUND)
