"""What users see of an accelerated model: everything but the speed is torch's."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import pyconvopt as pco

from ..nn.helpers import assert_same
from .networks import ResNet, assert_same_network_step, image, pair_of, vgg

BOUND = 1e-3


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


def test_frozen_in_other_things():
    model, x = pair_of("vgg")
    fast = pco.accelerate(model, frozen=True, example_input=x)
    wanted = fast(x)
    pco.explain(fast, x)
    whole = nn.ModuleDict({"backbone": fast, "head": nn.Linear(2, 2)}).train()
    assert not fast.training and whole["head"].training
    whole.to("cpu").float()
    assert_same(fast(x), wanted, 0)


def test_settings_changed_later():
    x = torch.randn(2, 3, 12, 12)

    def body():
        torch.manual_seed(0)
        conv = nn.Conv2d(3, 16, 3, padding=1)
        return nn.Sequential(conv, nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)).eval()

    for frozen in (False, True):
        for change in (
            lambda m: setattr(m[3], "kernel_size", 3) or setattr(m[3], "stride", 3),
            lambda m: setattr(m[0], "padding_mode", "circular"),
            lambda m: setattr(m[0], "stride", (2, 2)),
            lambda m: setattr(m[1], "eps", 0.5),
        ):
            model = body()
            fast = pco.accelerate(model, frozen=frozen)
            with torch.no_grad():
                fast(x), change(model), change(fast)
                assert_same(fast(x), model(x), BOUND)


def test_explain_leaves_gradients_and_lazy_layers_alone():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()).eval()
    x = torch.randn(2, 3, 12, 12)
    y = model(x)
    pco.explain(model, x)
    y.sum().backward()
    lazy = nn.Sequential(nn.LazyConv2d(16, 3), nn.LazyBatchNorm2d(), nn.ReLU())
    assert pco.explain(lazy, x).rows
    fast = pco.accelerate(
        nn.Sequential(nn.LazyConv2d(16, 3), nn.LazyBatchNorm2d()), example_input=x
    )
    for norm in (lazy[1], fast[1]):
        assert not norm.running_mean.any() and norm.num_batches_tracked == 0


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
    assert ("conv1+bn1+relu", "batch_norm") in rows
    assert ("conv1+bn1+relu", "conv2d") in rows
    assert any(
        n.startswith("layer1.0.conv2+layer1.0.bn2+") and n.endswith("+layer1.0.relu")
        for n, _ in rows
    )
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


def test_models_of_this_library_stay_what_they_are():
    from pyconvopt import layers, models

    model = models.Sequential([layers.Conv2D(16, 3, input_shape=(8, 8, 3)), layers.ReLU()])
    fast, x = pco.accelerate(model), torch.randn(2, 8, 8, 3)
    assert [type(m) for m in fast.modules()] == [type(m) for m in model.modules()]
    assert torch.equal(fast(x), model(x))


def test_graph_modules_get_their_layers_and_stay_as_generated():
    theirs, x = pair_of("resnet")
    traced = torch.fx.symbolic_trace(theirs)
    fast = pco.accelerate(copy.deepcopy(traced))
    assert type(fast.conv1) is pco.nn.Conv2d
    assert_same_network_step(fast, traced, x, BOUND)
    assert_same_network_step(copy.deepcopy(fast), copy.deepcopy(traced), x, BOUND)
