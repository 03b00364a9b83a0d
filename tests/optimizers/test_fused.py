"""`pyconvopt.optimizers` beside torch.optim: the same weights and states, step for step."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import pyconvopt as pco
from pyconvopt import _C, optimizers

SHAPES = [(32, 1, 3, 3), (32,), (8, 32, 3, 3), (24,), (7, 5, 1, 1), (130, 140), (1,), (0, 3), ()]

SGD_OPTIONS = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.3},
    {"momentum": 0.9, "nesterov": True},
    {"weight_decay": 0.05},
    {"momentum": 0.8, "weight_decay": 0.05, "nesterov": True, "maximize": True},
]
ADAM_OPTIONS = [
    {},
    {"weight_decay": 0.05},
    {"betas": (0.3, 0.95), "eps": 1e-4},
    {"maximize": True, "weight_decay": 0.01},
    {"amsgrad": True},
    {"lr": torch.tensor(1e-2)},
]
CASES = [
    *(("SGD", {"lr": 0.05, **options}) for options in SGD_OPTIONS),
    *(("Adam", {"lr": 1e-2, **options}) for options in ADAM_OPTIONS),
    *(("AdamW", {"lr": 1e-2, **options}) for options in ADAM_OPTIONS),
]


def make_parameters(seed=0, shapes=SHAPES):
    torch.manual_seed(seed)
    made = []
    for i, shape in enumerate(shapes):
        value = torch.randn(shape)
        if i == 2 and value.dim() == 4:
            value = value.contiguous(memory_format=torch.channels_last)
        made.append(torch.nn.Parameter(value))
    return made


def give_gradients(parameters, generator, pull=0.5):
    for p in parameters:
        noise = torch.randn(p.shape, generator=generator)
        p.grad = torch.empty_like(p).copy_(pull * p.detach() + noise)


def advance(optimizer, parameters, steps, seed=1):
    generator = torch.Generator().manual_seed(seed)
    pull = -0.5 if optimizer.defaults["maximize"] else 0.5  # towards zero: a step's rounding fades
    for _ in range(steps):
        give_gradients(parameters, generator, pull)
        optimizer.step()


def assert_same(ours, theirs, rtol=1e-6, atol=1e-6):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def assert_same_state(ours, theirs, rtol=1e-5, atol=1e-6):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for index, state in theirs["state"].items():
        assert state.keys() == ours["state"][index].keys()
        for name, value in state.items():
            other = ours["state"][index][name]
            if value is None or other is None:
                assert value is other
            else:
                assert other.dtype == value.dtype and other.stride() == value.stride()
                torch.testing.assert_close(other, value, rtol=rtol, atol=atol)


@pytest.fixture
def fused_calls(monkeypatch):
    """How often a fused operator was called."""
    calls = []
    for cls in (optimizers.SGD, optimizers.Adam):
        original = cls.fused

        def counted(self, group, parameters, original=original):
            calls.append(len(parameters))
            return original(self, group, parameters)

        monkeypatch.setattr(cls, "fused", counted)
    return calls


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: str(value))
def test_hundred_steps_beside_torch(name, options):
    torch.set_num_threads(1)  # hundreds of tiny steps: waiting threads would take most of the time
    ours, theirs = make_parameters(), make_parameters()
    a = getattr(optimizers, name)(ours, **copy.deepcopy(options))
    b = getattr(torch.optim, name)(theirs, **copy.deepcopy(options))
    advance(a, ours, 1)
    advance(b, theirs, 1)
    assert_same(ours, theirs, atol=2e-7)
    advance(a, ours, 99, seed=2)
    advance(b, theirs, 99, seed=2)
    assert_same(ours, theirs, rtol=1e-5, atol=5e-6)
    assert_same_state(a, b)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_one_step_agrees_to_the_last_bits(name, isa):
    options = {"momentum": 0.9, "weight_decay": 1e-2} if name == "SGD" else {"weight_decay": 1e-2}
    ours, theirs = make_parameters(), make_parameters()
    a = getattr(optimizers, name)(ours, lr=0.01, **options)
    b = getattr(torch.optim, name)(theirs, lr=0.01, foreach=False, **options)
    for seed in range(3):
        advance(a, ours, 1, seed)
        advance(b, theirs, 1, seed)
        assert_same(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_reference_agrees(name):
    options = {"momentum": 0.9, "nesterov": True} if name == "SGD" else {}
    results = []
    for isa in ("reference", _C.available_isas()[-1]):
        with pco.settings(isa=isa):
            parameters = make_parameters()
            optimizer = getattr(optimizers, name)(parameters, lr=0.01, **options)
            advance(optimizer, parameters, 5)
            results.append(parameters)
    assert_same(*results, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options"), [("SGD", {"momentum": 0.9}), ("Adam", {}), ("AdamW", {})]
)
def test_thread_count_changes_no_bit(name, options):
    shapes = [(300_000,), (17,), (70_001,)]
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        parameters = make_parameters(shapes=shapes)
        advance(getattr(optimizers, name)(parameters, lr=0.01, **options), parameters, 3)
        results.append(parameters)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(
    ("name", "options"), [("SGD", {"momentum": 0.9}), ("Adam", {}), ("AdamW", {})]
)
def test_states_load_both_ways(name, options, fused_calls):
    makers = [getattr(optimizers, name), getattr(torch.optim, name)]
    for first, second in (makers, makers[::-1]):
        parameters, straight = make_parameters(), make_parameters()
        optimizer, whole = (
            make(p, lr=0.01, **options) for make, p in ((first, parameters), (first, straight))
        )
        advance(optimizer, parameters, 5)
        saved = copy.deepcopy(optimizer.state_dict())
        other, weights = second(parameters, lr=0.5, **options), copy.deepcopy(parameters)
        advance(other, parameters, 1)  # so it has plans and states of its own before it loads
        with torch.no_grad():
            for p, w in zip(parameters, weights, strict=True):
                p.copy_(w)
        other.load_state_dict(saved)
        advance(other, parameters, 5, seed=3)
        advance(whole, straight, 5)
        advance(whole, straight, 5, seed=3)
        assert_same(parameters, straight, rtol=1e-5)
    assert fused_calls


def test_pickle_and_copy_go_on_exactly():
    parameters = make_parameters()
    optimizer = optimizers.Adam(parameters, lr=0.01)
    advance(optimizer, parameters, 3)
    again, copied = (
        pickle.loads(pickle.dumps((optimizer, parameters))),
        copy.deepcopy((optimizer, parameters)),
    )
    advance(optimizer, parameters, 3, seed=4)
    for other, others in (again, copied):
        advance(other, others, 3, seed=4)
        assert all(torch.equal(a, b) for a, b in zip(parameters, others, strict=True))


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_schedulers(name):
    ours, theirs = make_parameters(), make_parameters()
    for cls, parameters in (
        (getattr(optimizers, name), ours),
        (getattr(torch.optim, name), theirs),
    ):
        optimizer = cls(parameters, lr=0.1)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.1)
        generator = torch.Generator().manual_seed(5)
        for _ in range(7):
            give_gradients(parameters, generator)
            optimizer.step()
            schedule.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)
    assert_same(ours, theirs, rtol=1e-5)


def test_groups_have_their_own_options(fused_calls):
    ours, theirs = make_parameters(), make_parameters()

    def groups(p):
        return [{"params": p[:3]}, {"params": p[3:], "lr": 0.2, "weight_decay": 0.1}]

    a, b = optimizers.SGD(groups(ours), lr=0.05), torch.optim.SGD(groups(theirs), lr=0.05)
    advance(a, ours, 4)
    advance(b, theirs, 4)
    assert_same(ours, theirs)
    assert fused_calls == [3, 6] * 4
    a.add_param_group({"params": [extra := torch.nn.Parameter(torch.ones(3))]})
    extra.grad = torch.ones(3)
    a.step()
    assert torch.allclose(extra, torch.full((3,), 0.95))


def test_what_is_not_fused_gets_torchs_step(fused_calls):
    shapes = [(4, 3), (5,), (2, 3, 3, 3), (6, 4), (3,)]

    def prepared():
        p = make_parameters(shapes=shapes)
        p[1] = torch.nn.Parameter(p[1].detach().double())
        return p

    def gradients(p, step):
        torch.manual_seed(step)
        for each in p:
            each.grad = torch.randn(each.shape, dtype=each.dtype)
        assert p[2].grad.stride() != p[2].stride()  # contiguous, for a weight in channels_last
        p[4].grad = None if step < 2 else p[4].grad  # comes late

    ours, theirs = prepared(), prepared()
    a = optimizers.SGD(ours, lr=0.1, momentum=0.9, dampening=0.5)
    b = torch.optim.SGD(theirs, lr=0.1, momentum=0.9, dampening=0.5)
    for step in range(5):
        for optimizer, parameters in ((a, ours), (b, theirs)):
            gradients(parameters, step)
            kept = [p.grad for p in parameters]
            optimizer.step()
            assert all(p.grad is g for p, g in zip(parameters, kept, strict=True))
    assert_same(ours, theirs)
    assert fused_calls and set(fused_calls) == {2, 3}


def test_sparse_gradients_are_torchs():
    ours, theirs = (torch.nn.Embedding(10, 3, sparse=True) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    for layer, cls in ((ours, optimizers.SGD), (theirs, torch.optim.SGD)):
        optimizer = cls(layer.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            layer(torch.tensor([1, 2, 2])).square().sum().backward()
            optimizer.step()
    assert_same(ours.parameters(), theirs.parameters())


def test_late_and_vanishing_gradients():
    ours, theirs = make_parameters(), make_parameters()
    a, b = optimizers.Adam(ours, lr=0.01), torch.optim.Adam(theirs, lr=0.01)
    for step in range(6):
        for optimizer, parameters in ((a, ours), (b, theirs)):
            give_gradients(parameters, torch.Generator().manual_seed(step))
            for i, p in enumerate(parameters):
                if (i + step) % 3 == 0:
                    p.grad = None
            optimizer.step()
    assert_same(ours, theirs, rtol=1e-5)
    assert_same_state(a, b)


def test_a_replaced_parameter_is_seen():
    parameter = torch.nn.Parameter(torch.ones(4))
    optimizer = optimizers.SGD([parameter], lr=0.5)
    parameter.grad = torch.ones(4)
    optimizer.step()
    parameter.data = torch.full((4,), 9.0)
    optimizer.step()
    assert (parameter == 8.5).all()


def test_closure_hooks_and_versions():
    parameters = make_parameters()
    optimizer, calls = optimizers.SGD(parameters, lr=0.1), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    torch.optim.SGD(make_parameters(), lr=0.1)  # its class is hooked from now on

    def closure():
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = sum(p.square().sum() for p in parameters)
        loss.backward()
        return loss

    versions = [p._version for p in parameters]
    before = sum(p.square().sum() for p in parameters)
    loss = optimizer.step(closure)
    assert loss == before and calls == ["before", "after"]
    assert all(p._version > v for p, v in zip(parameters, versions, strict=True))
    assert sum(p.square().sum() for p in parameters) < before
    parameters[0].grad = parameters[0].grad.to_sparse()  # torch's step, but the hooks only once
    optimizer.step()
    assert calls == ["before", "after"] * 2


def test_stale_graph_is_detected():
    parameter = torch.nn.Parameter(torch.ones(3))
    loss = parameter.square().sum()
    parameter.grad = torch.ones(3)
    optimizers.SGD([parameter], lr=0.1).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_nan_and_inf_gradients_spread_like_torchs():
    for name in ("SGD", "Adam"):
        ours, theirs = make_parameters(), make_parameters()
        for cls, parameters in (
            (getattr(optimizers, name), ours),
            (getattr(torch.optim, name), theirs),
        ):
            give_gradients(parameters, torch.Generator().manual_seed(0))
            parameters[1].grad[3], parameters[1].grad[5] = float("nan"), float("inf")
            cls(parameters, lr=0.1).step()
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, equal_nan=True, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, g: ([p], [], [], [], []), "as many gradients"),
        (lambda p, g: ([p], [g[:1]], [g], [g], [g[0, 0]]), "gradients of shape"),
        (lambda p, g: ([p], [g.double()], [g], [g], [g[0, 0]]), "float32"),
        (lambda p, g: ([p], [g], [g], [g.t().contiguous().t()], [g[0, 0]]), "exp_avg_sqs"),
        (lambda p, g: ([p], [g], [g], [g], [g]), "steps of one element"),
    ],
)
def test_the_operator_refuses_before_it_writes(call, message):
    p, g = torch.ones(3, 2), torch.ones(3, 2)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.pyconvopt.adam_step_(*call(p, g), 0.1, 0.9, 0.99, 1e-8, 0.0, False, False)
    assert (p == 1).all() and (g == 1).all()
