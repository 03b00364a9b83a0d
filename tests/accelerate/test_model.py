"""What users see of an accelerated model: everything but the speed is torch's."""

from __future__ import annotations

import copy
import io
import pickle
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pyconvopt as pco

from ..nn.helpers import assert_same
from .networks import BasicBlock, ResNet, assert_same_network_step, pair_of, vgg

BOUND = 1e-3


def image(*shape):
    return torch.randn(*(shape or (4, 3, 16, 16)))


def as_written(module):
    return module._pyconvopt_plans.as_written


def test_the_model_given_stays_as_it_is_and_everything_is_shared():
    model = ResNet()
    printed, classes = repr(model), [type(m) for m in model.modules()]
    fast = pco.accelerate(model)
    assert repr(fast) == printed == repr(model)
    assert [type(m) for m in model.modules()] == classes
    assert [n for n, _ in fast.named_modules()] == [n for n, _ in model.named_modules()]
    for a, b in zip(fast.modules(), model.modules(), strict=True):
        assert a is not b and isinstance(a, type(b)) and type(a).__name__ == type(b).__name__
    for kind in ("named_parameters", "named_buffers"):
        ours, theirs = (list(getattr(m, kind)()) for m in (fast, model))
        assert [n for n, _ in ours] == [n for n, _ in theirs]
        assert all(a is b for (_, a), (_, b) in zip(ours, theirs, strict=True))
    assert type(fast.conv1) is pco.nn.Conv2d and type(fast.layer1[0].bn1) is pco.nn.BatchNorm2d
    plain = pco.restore(fast)
    assert [type(m) for m in plain.modules()] == classes
    assert plain.conv1.weight is model.conv1.weight
    assert not any("pyconvopt" in key for m in plain.modules() for key in vars(m))


def test_accelerating_twice_and_restoring_a_plain_model_change_nothing():
    model = ResNet()
    fast = pco.accelerate(pco.accelerate(model))
    assert [type(m) for m in fast.modules()] == [type(m) for m in pco.accelerate(model).modules()]
    assert [type(m) for m in pco.restore(model).modules()] == [type(m) for m in model.modules()]


def test_subclasses_of_layers_keep_what_they_do():
    class Scaled(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    model = nn.Sequential(Scaled(3, 16, 3), nn.ReLU())
    x = image()
    wanted = model(x)
    assert_same(pco.accelerate(model)(x), wanted)
    assert isinstance(pco.accelerate(model)[0], Scaled)


@pytest.mark.parametrize("before", [True, False])
def test_optimizer_made_before_or_after(before):
    theirs, x = pair_of("resnet")
    model = copy.deepcopy(theirs)
    first = torch.optim.SGD(model.parameters(), 0.1)
    fast = pco.accelerate(model)
    ours = first if before else torch.optim.SGD(fast.parameters(), 0.1)
    for network, optimizer in ((fast, ours), (theirs, torch.optim.SGD(theirs.parameters(), 0.1))):
        for _ in range(2):
            optimizer.zero_grad()
            network(x).square().mean().backward()
            optimizer.step()
    for a, b in zip(fast.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert_same(a.float(), b.float(), 5e-3)


def test_state_dict_both_ways_and_weights_only_files(tmp_path):
    theirs, x = pair_of("resnet")
    fast = pco.accelerate(ResNet())
    fast.load_state_dict(theirs.state_dict())
    torch.save(fast.state_dict(), tmp_path / "weights.pt")
    back = ResNet()
    back.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    fast.eval(), back.eval(), theirs.eval()
    assert_same(fast(x), theirs(x), BOUND)
    assert torch.equal(back(x), theirs(x))


def through_torch_save(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), through_torch_save],
    ids=["deepcopy", "pickle", "torch.save"],
)
@pytest.mark.parametrize("called", [True, False])
def test_copies_are_accelerated_models_of_their_own(copied, called):
    fast = pco.accelerate(pair_of("resnet")[0])
    x = image()
    if called:
        fast(x)
    twin = copied(fast)
    assert [type(m) for m in twin.modules()] == [type(m) for m in fast.modules()]
    assert_same(twin(x), fast(x), 1e-5)
    assert twin._pyconvopt_plans is not fast._pyconvopt_plans
    with torch.no_grad():
        twin.conv1.weight.zero_()
    assert fast.conv1.weight.abs().sum() > 0


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
    assert "bn1+relu" in joined, "without its hook it is joined again"


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


@pytest.mark.parametrize("prepare", [
    lambda m: m[0][1].eval(),
    lambda m: m[0][1].requires_grad_(False),
    lambda m: (m[0][1].eval(), m[0].requires_grad_(False)),
    lambda m: setattr(m[0][1], "momentum", None),
    lambda m: m.requires_grad_(False),
], ids=["eval", "no grad", "frozen", "cumulative", "all constant"])  # fmt: skip
def test_frozen_parts(prepare):
    theirs, x = pair_of("vgg")
    prepare(theirs)
    fast = pco.accelerate(copy.deepcopy(theirs))
    assert_same_network_step(fast, theirs, x, BOUND)


def test_batch_norm_without_statistics():
    theirs = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16, track_running_stats=False), nn.ReLU()
    )
    fast, x = pco.accelerate(copy.deepcopy(theirs)), image()
    for training in (True, False):
        fast.train(training), theirs.train(training)
        assert_same_network_step(fast, theirs, x, BOUND)
        with torch.no_grad():
            assert_same(fast(x), theirs(x), BOUND)


def test_surgery_after_accelerating():
    theirs, x = pair_of("resnet")
    fast = pco.accelerate(copy.deepcopy(theirs))
    fast(x), theirs(x)
    for model in (fast, theirs):
        model.fc = nn.Identity()
        model.layer1[0].relu = nn.Sigmoid()
        model.layer2.append(nn.ReLU())
        model.layer1[1].downsample[0].stride = (1, 1)
        model.layer1[1].conv1.stride = (1, 1)
    assert_same(fast(x), theirs(x), BOUND)
    assert fast(x).shape == (4, 32)


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
    assert "0" in names and "1+2" in names, "the rest is joined"


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


def test_plain_attributes_that_hold_modules_point_into_the_copy():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 16, 3), nn.Dropout(0.5)
            self.plain_list = [self.a, self.b]
            self.by_name = {"last": (self.b,)}
            self.activation = self.b.forward

        def forward(self, x):
            for module in self.plain_list:
                x = module(x)
            return self.activation(x)

    fast, x = pco.accelerate(Listed()).eval(), image()
    assert fast.plain_list[0] is fast.a and fast.by_name["last"][0] is fast.b
    assert fast.activation.__self__ is fast.b
    assert torch.equal(fast(x), fast(x)), "in evaluation nothing is dropped"


def test_folded_weights_follow_every_change():
    theirs, _ = pair_of("vgg")
    fast = pco.accelerate(copy.deepcopy(theirs)).eval()
    theirs.eval()
    x = image(8, 3, 32, 32)
    changes = [
        lambda m: m[0][0].weight.data.mul_(2),
        lambda m: m[0][0].weight.data[0, 0, 0].fill_(1.5),
        lambda m: m[0][1].running_mean.data.add_(0.3),
        lambda m: setattr(m[0][0], "bias", nn.Parameter(torch.ones(16))),
        lambda m: setattr(m[0][1], "eps", 0.5),
        lambda m: setattr(m[0][1].weight, "data", torch.full((16,), 0.7)),
        lambda m: m.train()(x) is None or m.eval(),
        lambda m: m.load_state_dict({k: v * 0.9 for k, v in m.state_dict().items()}),
    ]
    with torch.no_grad():
        for change in (lambda m: None, *changes):
            change(fast), change(theirs)
            assert_same(fast(x), theirs(x), BOUND)
        rows = {row["layer"]: row for row in pco.explain(fast, x).rows}
    assert rows["0.0+0.1+0.2"]["op"] == "conv2d", "batch norm has no pass of its own"


def test_frozen_weights_are_constants():
    model, x = pair_of("vgg")
    model.eval()
    with torch.no_grad():
        wanted = model(x)
    model.train()
    fast = pco.accelerate(model, frozen=True)
    assert not fast.training and model.training
    assert_same(fast(x), wanted, BOUND)
    assert not any("batch_norm" in row["op"] for row in pco.explain(fast, x).rows)
    for change in (
        lambda: setattr(fast[0][0], "weight", nn.Parameter(torch.ones(16, 3, 3, 3))),
        lambda: setattr(fast[0][1], "running_mean", torch.zeros(16)),
        lambda: fast.load_state_dict(model.state_dict()),
        lambda: fast.train(),
        lambda: fast.double(),
    ):
        with pytest.raises(RuntimeError, match="accelerated with frozen=True"):
            change()
    assert_same(copy.deepcopy(fast)(x), wanted, BOUND)
    assert_same(pickle.loads(pickle.dumps(fast))(x), wanted, BOUND)
    with torch.no_grad():
        model[0][0].weight.mul_(2)
    with pytest.raises(RuntimeError, match=r"changed after accelerate\(frozen=True\)"):
        fast(x)


def test_example_input_makes_the_plans_and_leaves_no_trace():
    model = vgg()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    random_state = torch.get_rng_state()
    fast = pco.accelerate(model, example_input=image())
    torch.set_rng_state(random_state)
    assert fast._pyconvopt_plans.current is not None
    assert all(torch.equal(v, before[k]) for k, v in fast.state_dict().items())
    with pytest.raises(RuntimeError, match="channels"):
        pco.accelerate(model, example_input=torch.zeros(1, 5, 8, 8))


def test_plans_are_kept_between_training_and_evaluation(monkeypatch):
    from pyconvopt.accelerate import tracing

    fast, x = pco.accelerate(ResNet()), image()
    fast(x), fast.eval()(x)
    monkeypatch.setattr(tracing, "trace", None)
    for _ in range(2):
        fast.train()(x)
        fast.eval()(x)


def test_refusals():
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module, got .*: pass an instance"):
        pco.accelerate(nn.ReLU)
    with pytest.raises(TypeError, match="TorchScript"):
        pco.accelerate(torch.jit.trace(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 2, 2)))
    with pytest.raises(ValueError, match="wrapped in OptimizedModule"):
        pco.accelerate(torch.compile(nn.ReLU()))


def test_explain_names_joined_layers():
    fast, x = pco.accelerate(ResNet()), image()
    rows = [(r["layer"], r["op"]) for r in pco.explain(fast, x).rows if r["pass"] == "forward"]
    assert ("bn1+relu", "batch_norm") in rows
    assert ("conv1", "conv2d") in rows
    assert any(n.startswith("layer1.0.bn2+") and n.endswith("+layer1.0.relu") for n, _ in rows)
    assert repr(pco.restore(fast)) == repr(fast)


def test_inputs_that_are_no_plain_tensors():
    class Sub(torch.Tensor):
        pass

    fast = pco.accelerate(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU()))
    x = image()
    assert_same(fast(x.as_subclass(Sub)).as_subclass(torch.Tensor), fast(x), 1e-5)
    assert_same(fast(x[0]), fast(x)[0], 1e-4)
    assert fast(x[:0]).shape == (0, 16, 14, 14)
    assert fast.to("meta")(x.to("meta")).shape == (4, 16, 14, 14)
