"""Optimisers by name, parameter groups, states that load, errors."""

from __future__ import annotations

import ast
import copy
import functools
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from pyconvopt import layers, models, optimizers, schedules
from pyconvopt.optimizers import formulas
from pyconvopt.optimizers.table import FromLibrary
from pyconvopt.training import Trainer, find_lr
from tests.optimizers.problem import advance, needs_library, start

NAMES = sorted(optimizers.OPTIMIZERS)
THE_LIBRARYS = [name for name in NAMES if isinstance(optimizers.OPTIMIZERS[name][0], FromLibrary)]


def test_get():
    weights = start()
    assert type(optimizers.get("sgd", weights)) is optimizers.SGD
    assert optimizers.get("SGD", weights).param_groups[0]["lr"] == 0.01
    adam = optimizers.get("Adam", weights, lr=0.5)
    assert type(adam) is optimizers.Adam and isinstance(adam, torch.optim.Adam)
    assert adam.param_groups[0]["lr"] == 0.5 and adam.param_groups[0]["eps"] == 1e-7
    assert isinstance(optimizers.get(torch.optim.Rprop, weights, lr=0.1), torch.optim.Rprop)
    made = optimizers.get(functools.partial(optimizers.SGD, lr=0.3), weights)
    assert made.param_groups[0]["lr"] == 0.3
    assert optimizers.get(adam, weights) is adam
    with pytest.raises(ValueError, match="did you mean 'adamw'"):
        optimizers.get("adamm_w", weights)
    with pytest.raises(ValueError, match="ready optimizer"):
        optimizers.get(adam, weights, lr=0.1)
    with pytest.raises(TypeError, match="learning_rate"):
        optimizers.get("sgd", weights, learning_rate=0.1)
    with pytest.raises(TypeError, match="must be a name"):
        optimizers.get(3, weights)
    with pytest.raises(TypeError, match="no torch optimizer"):
        optimizers.get(lambda p: p, weights)


def described() -> dict[str, str]:
    """What `formulas` says of each name."""
    parts = re.split(r"^`(\w+)`: ", formulas.__doc__, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_name_has_a_formula_and_a_source():
    assert sorted(described()) == NAMES
    for name, text in described().items():
        assert re.search(r"\n    \S.*(←|=)", text), name
        assert "Source: " in text and "Defaults: " in text, name
        assert f"`{name}`: " in optimizers.get.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_the_defaults_described_are_those_it_has(name):
    needs_library(name)
    optimizer = optimizers.get(name, start(dtype=torch.float32))
    text = described()[name].partition("Defaults: ")[2].partition("Source: ")[0]
    group = {**vars(optimizer), **optimizer.param_groups[0]}
    group.setdefault("d0", group.get("d"))  # D-Adaptation's first estimate
    found = dict(re.findall(r"(\w+)=(\([^)]*\)|[^\s,]+?)(?=[,.]\s|\.$)", text))
    assert found, text
    for key, value in found.items():
        if key in ("base", "initial_accumulator_value"):
            continue  # no numbers of a group
        assert group[key] == ast.literal_eval(value), key


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_every_name_makes_an_optimizer_that_steps(name, channels_last):
    needs_library(name)
    weights = start(channels_last, torch.float32)
    optimizer = optimizers.get(name, weights)
    before = [w.detach().clone() for w in weights]
    advance(optimizer, weights, range(3))
    assert all(not torch.equal(a, b) for a, b in zip(weights, before, strict=True))
    assert all(a.stride() == b.stride() for a, b in zip(weights, before, strict=True))
    assert all(torch.isfinite(w).all() for w in weights)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_state_goes_on_exactly(name):
    needs_library(name)
    weights = start(True, torch.float32)
    optimizer = optimizers.get(name, weights)
    advance(optimizer, weights, range(12))
    copies = [nn.Parameter(w.detach().clone()) for w in weights]
    other = optimizers.get(name, copies)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    advance(optimizer, weights, range(12, 25))
    advance(other, copies, range(12, 25))
    assert all(torch.equal(a, b) for a, b in zip(weights, copies, strict=True))


@pytest.mark.parametrize("name", ["muon", "sam", "lookahead", "sgd_hd", "adam_hd", *THE_LIBRARYS])
def test_pickles_copies_and_plain_states(name, tmp_path):
    needs_library(name)
    weights = start(dtype=torch.float32)
    optimizer = optimizers.get(name, weights)
    schedules.Cosine(0.1, 10).to_torch(optimizer)  # puts a step of its own on the object
    advance(optimizer, weights, range(7))
    torch.save(optimizer.state_dict(), tmp_path / "state")
    torch.load(tmp_path / "state", weights_only=True)
    pickled = pickle.loads(pickle.dumps((optimizer, weights)))
    copied = copy.deepcopy((optimizer, weights))
    advance(optimizer, weights, range(7, 20))
    for other, others in (pickled, copied):
        assert type(other) is type(optimizer)
        advance(other, others, range(7, 20))
        assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))


@pytest.mark.parametrize("name", THE_LIBRARYS)
def test_a_range_test_after_a_fit_changes_nothing(name):
    needs_library(name)
    data = (torch.randn(32, 4, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 2)
    made = []
    for tries in (0, 1):
        torch.manual_seed(0)
        trainer = Trainer(nn.Linear(4, 2), name)
        trainer.fit(data, batch_size=8, seed=0, verbose=0)
        for _ in range(tries):
            find_lr(trainer, data, low=1e-6, high=1e-3, steps=10, batch_size=8)
        trainer.fit(data, batch_size=8, seed=1, verbose=0)
        made.append(trainer)
    assert type(made[0].optimizer).__name__ == optimizers.OPTIMIZERS[name][0].name
    assert torch.equal(made[0].model.weight, made[1].model.weight)


@pytest.mark.parametrize("name", NAMES)
def test_late_gradients_and_an_added_group(name):
    needs_library(name)
    weights = start(dtype=torch.float32)
    optimizer = optimizers.get(name, weights[:2])
    advance(optimizer, weights[:1], range(2))  # the second has no gradient yet
    if name not in ("dadapt_sgd", "dadapt_adam", "prodigy"):  # these refuse or reset
        optimizer.add_param_group({"params": weights[2:]})
        advance(optimizer, weights, range(2, 14))
        assert all(torch.isfinite(w).all() for w in weights)
        assert len([w for group in optimizer.param_groups for w in group["params"]]) == 3


def test_muon_sees_an_edited_group():
    made = []
    for replace in (False, True):
        weights = start()
        optimizer = optimizers.Muon(weights, lr=0.1)
        advance(optimizer, weights, range(2))
        if replace:
            optimizer.param_groups = [dict(group) for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = 0.5
        advance(optimizer, weights, range(2, 4))
        made.append(weights)
    assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))


def test_hypergradient_descent_with_momentum_from_the_third_step_on():
    weights = start()
    optimizer = optimizers.HypergradientDescent(weights, "sgd", lr=0.1)
    advance(optimizer, weights, range(2))
    optimizer.param_groups[0]["momentum"] = 0.9
    advance(optimizer, weights, range(2, 4))
    assert all("momentum_buffer" in optimizer.state[w] for w in weights)


def test_hypergradient_descent_goes_on_from_plain_sgd():
    weights = start()
    plain = optimizers.SGD(weights, lr=0.1, momentum=0.9)
    advance(plain, weights, range(2))
    optimizer = optimizers.HypergradientDescent(weights, "sgd", lr=0.1, momentum=0.9)
    optimizer.load_state_dict(plain.state_dict())
    advance(optimizer, weights, range(2, 3))
    assert optimizer.param_groups[0]["lr"] == 0.1  # no gradient before is known
    advance(optimizer, weights, range(3, 4))
    assert optimizer.param_groups[0]["lr"] != 0.1


def test_a_failed_second_evaluation_leaves_sams_weights():
    weights = start()
    optimizer = optimizers.SAM(weights, "sgd", rho=0.5, lr=0.1)
    before, calls = [w.detach().clone() for w in weights], []

    def closure():
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        for w in weights:
            w.grad = torch.ones_like(w)

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert all(torch.equal(w, value) for w, value in zip(weights, before, strict=True))


@pytest.mark.parametrize("settings", [{}, {"adaptive": True}])
def test_sam_maximises_as_it_minimises_the_negative(settings):
    made = []
    for sign in (1, -1):
        weights = start()
        optimizer = optimizers.SAM(weights, "sgd", rho=0.5, lr=0.1, maximize=sign < 0, **settings)

        def closure(weights=weights, optimizer=optimizer, sign=sign):
            optimizer.zero_grad()
            loss = sign * sum(w.square().sum() for w in weights)
            loss.backward()
            return loss

        for _ in range(5):
            optimizer.step(closure)
        made.append(weights)
    for a, b in zip(*made, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_lookahead_pulls_back_what_has_no_gradient_at_the_time():
    w, v = (nn.Parameter(torch.ones(1)) for _ in range(2))
    optimizer = optimizers.Lookahead([w, v], "sgd", k=2, alpha=0.5, lr=0.1)
    for step in range(2):
        w.grad, v.grad = torch.ones(1), torch.ones(1) if step == 0 else None
        optimizer.step()
    assert w.item() == pytest.approx(0.9) and v.item() == pytest.approx(0.95)


def around(*names, **settings):
    """The first named around the second, and so on."""
    make = names[-1]
    for name in reversed(names[:-1]):
        make = functools.partial(optimizers.get, name, base=make, **settings.get(name, {}))
    return make


def quadratic(optimizer, w, calls):
    def closure():
        calls.append(w.item())
        optimizer.zero_grad()
        loss = w.square().sum()
        loss.backward()
        return loss

    return closure


class TestWrappersAroundWrappers:
    @pytest.mark.parametrize("names", [("sam", "lookahead", "sgd"), ("lookahead", "sam", "sgd")])
    def test_each_counts_its_own_steps(self, names):
        settings = {"sam": {"rho": 0.5, "every": 2}, "lookahead": {"k": 5, "alpha": 0.0}}
        w, calls, ends = nn.Parameter(torch.ones(1)), [], []
        optimizer = optimizers.get(around(*names, **settings), [w])
        for _ in range(10):
            optimizer.step(quadratic(optimizer, w, calls))
            ends.append(w.item() == 1.0)  # with alpha 0 Lookahead comes back to the start
        assert len(calls) == 15
        assert [step for step, back in enumerate(ends, 1) if back] == [5, 10]

    def test_two_of_a_kind_have_slow_weights_each(self):
        """With k = 2 and alpha = 0.5 the inner halves what SGD does, the outer that again."""
        w = nn.Parameter(torch.ones(1))
        inner = functools.partial(optimizers.Lookahead, k=2, lr=0.1)
        optimizer = optimizers.Lookahead([w], inner, k=4)
        for _ in range(4):
            w.grad = torch.ones(1)
            optimizer.step()
        assert w.item() == pytest.approx(1 - 4 * 0.1 / 4)

    @pytest.mark.parametrize("inner", ["sgd", "sgd_hd"])
    def test_a_state_of_a_single_count_goes_on(self, inner):
        """As they were written before: one count and one copy, whatever kept them."""
        w = nn.Parameter(torch.full((1,), 0.9))
        optimizer = optimizers.Lookahead([w], inner, k=2, alpha=0.5, lr=0.1)
        state = optimizer.state_dict()
        state["param_groups"][0]["wrapper_steps"] = 1
        state["state"] = {0: {"slow": torch.ones(1)}}
        optimizer.load_state_dict(state)
        w.grad = torch.ones(1)
        optimizer.step()
        assert w.item() == pytest.approx(0.9)  # halfway between 0.8 and 1


def test_lookahead_leaves_frozen_weights_alone():
    w, frozen = (nn.Parameter(torch.ones(1)) for _ in range(2))
    optimizer = optimizers.Lookahead([w, frozen], "sgd", k=2, alpha=0.5, lr=0.1)

    def step():
        optimizer.zero_grad()
        for p in (w, frozen):
            p.grad = torch.ones(1) if p.requires_grad else None
        optimizer.step()

    step()
    frozen.requires_grad_(False)
    with torch.no_grad():
        frozen.fill_(5.0)
    step()
    assert w.item() == pytest.approx(0.9) and frozen.item() == 5.0
    frozen.requires_grad_(True)
    step()
    step()
    assert frozen.item() == pytest.approx(4.9)  # halfway from 5, not from what it was once


@pytest.mark.parametrize("name", ["schedule_free_sgd", "schedule_free_adamw"])
class TestScheduleFreeWithin:
    def test_sam_changes_to_the_average_and_back(self, name):
        needs_library(name)
        found = []
        for make in (name, functools.partial(optimizers.SAM, base=name, rho=0.0)):
            weights = start(dtype=torch.float32)
            optimizer = optimizers.get(make, weights)
            advance(optimizer, weights, range(4))
            optimizer.eval()
            found.append([w.detach().clone() for w in weights])
            optimizer.train()
            found.append(weights)
        assert all(torch.equal(a, b) for a, b in zip(found[0], found[2], strict=True))
        assert all(torch.equal(a, b) for a, b in zip(found[1], found[3], strict=True))
        assert not torch.equal(found[0][0], found[1][0])

    @pytest.mark.parametrize("between", [(), ("sam",)])
    def test_lookahead_refuses(self, name, between):
        needs_library(name)
        with pytest.raises(ValueError, match=r"Lookahead cannot go around S.* Schedule-Free"):
            optimizers.get(around("lookahead", *between, name), start())


def test_only_a_schedule_free_optimizer_has_an_average():
    for name in ("sam", "lookahead"):
        assert not hasattr(optimizers.get(name, start()), "eval")


def test_numpys_whole_numbers():
    assert optimizers.SAM(start(), every=np.int64(2)).every == 2
    assert optimizers.Lookahead(start(), k=np.int64(3)).k == 3


@pytest.mark.parametrize("given", ["MatchRmsAdamw", None])
def test_muons_adjustment_by_any_spelling_and_in_a_group(given):
    name = "original" if given is None else "match_rms_adamw"
    made = []
    for groups, settings in (
        (start()[:2], {"adjust_lr_fn": name}),
        (start()[:2], {"adjust_lr_fn": given}),
        ([{"params": start()[:2], "adjust_lr_fn": given}], {}),
    ):
        optimizer = optimizers.Muon(groups, lr=0.1, **settings)
        weights = optimizer.param_groups[0]["params"]
        advance(optimizer, weights, range(2))
        made.append(weights)
    for others in made[1:]:
        assert all(torch.equal(a, b) for a, b in zip(made[0], others, strict=True))


def test_a_scheduler_sets_the_inner_rate():
    weights = start()
    optimizer = optimizers.Lookahead(weights, "adam", lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    advance(optimizer, weights, range(1))
    scheduler.step()
    assert optimizer.base.param_groups[0]["lr"] == 0.05


class TestMuonsGroups:
    def test_matrices_and_the_rest(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
        muon = optimizers.get("muon", model, no_decay=("bias", "norm"), weight_decay=0.3)
        found = [
            (group["use_muon"], group["weight_decay"], len(group["params"]))
            for group in muon.param_groups
        ]
        assert found == [(True, 0.3, 2), (False, 0.0, 4)]

    def test_a_layer_can_be_left_to_adamw(self):
        first, rest = start()[0], start()[1]
        muon = optimizers.Muon([{"params": [first], "use_muon": False}, {"params": [rest]}])
        assert [group["use_muon"] for group in muon.param_groups] == [False, True]
        reference = start()[0]
        adamw = torch.optim.AdamW([reference], 1e-3, (0.9, 0.95), weight_decay=0.1)
        advance(muon, [first, rest], range(20))
        advance(adamw, [reference], range(20))
        torch.testing.assert_close(first, reference, rtol=1e-12, atol=1e-12)

    def test_vectors_alone_and_matrices_alone(self):
        for weights in (start()[2:], start()[:2]):
            optimizer = optimizers.Muon(iter(weights), lr=0.1)
            before = [w.detach().clone() for w in weights]
            advance(optimizer, weights, range(1))
            assert all(not torch.equal(a, b) for a, b in zip(weights, before, strict=True))


class TestParameterGroups:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2))
    )

    def names(self, **options):
        by_id = {id(p): name for name, p in self.model.named_parameters()}
        return [
            [by_id[id(p)] for p in group["params"]]
            for group in optimizers.parameter_groups(self.model, **options)
        ]

    def test_biases_and_norms(self):
        groups = optimizers.parameter_groups(self.model, weight_decay=0.1)
        assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
        assert self.names() == [
            ["0.weight", "3.0.weight"],
            ["0.bias", "1.weight", "1.bias", "3.0.bias"],
        ]
        assert "weight_decay" not in optimizers.parameter_groups(self.model)[0]

    def test_other_choices(self):
        assert self.names(no_decay_on=("bias",))[1] == ["0.bias", "1.bias", "3.0.bias"]
        assert self.names(no_decay_on=("norm",))[1] == ["1.weight", "1.bias"]
        assert self.names(no_decay_on=("3.*",))[1] == ["3.0.weight", "3.0.bias"]
        assert len(self.names(no_decay_on=())) == 1
        assert self.names(no_decay_on="bias") == self.names(no_decay_on=("bias",))
        for pattern in ("3.*", "bias"):
            groups = optimizers.get("adamw", self.model, no_decay=pattern).param_groups
            wanted = optimizers.parameter_groups(self.model, no_decay_on=(pattern,))
            assert [len(g["params"]) for g in groups] == [len(g["params"]) for g in wanted]

    def test_layers_of_this_library(self):
        model = models.Sequential(
            [layers.Conv2D(2, 3, input_shape=(8, 8, 1)), layers.BatchNormalization()]
        )
        decaying, spared = optimizers.parameter_groups(model)
        assert [p.dim() for p in decaying["params"]] == [4]
        assert len(spared["params"]) == 3

    def test_frozen_and_shared_parameters(self):
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        model[1].bias.requires_grad_(False)
        assert [len(g["params"]) for g in optimizers.parameter_groups(model)] == [1, 1]
        spared = optimizers.parameter_groups(model, no_decay_on="1.weight")[1]["params"]
        assert spared == [model[0].weight]  # met by its second name

    def test_errors(self):
        with pytest.raises(ValueError, match=r"no parameter is named like 'embed.*'; this model"):
            optimizers.parameter_groups(self.model, no_decay_on=("embed*",))
        with pytest.raises(ValueError, match="weight_decay must be 0 or more, got -1"):
            optimizers.parameter_groups(self.model, -1)
        with pytest.raises(ValueError, match="give the model in their place"):
            optimizers.get("adamw", start(), no_decay=("bias",))


def test_groups_keep_their_settings_in_training():
    model = nn.Sequential(nn.Linear(2, 4), nn.LayerNorm(4), nn.Linear(4, 1))
    spared = [p for group in optimizers.parameter_groups(model)[1:] for p in group["params"]]
    for p in model.parameters():
        nn.init.ones_(p)
    optimizer = optimizers.get("sgd", model, no_decay=("bias", "norm"), weight_decay=0.5, lr=0.1)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for p in model.parameters():
        expected = 1.0 if any(p is each for each in spared) else 0.95
        torch.testing.assert_close(p.detach(), torch.full_like(p, expected))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: optimizers.SAM(p, rho=-1), ValueError, "rho must be 0 or more, got -1"),
        (lambda p: optimizers.SAM(p, every=0), ValueError, "every must be a whole number"),
        (lambda p: optimizers.SAM(p, "sdg"), ValueError, "did you mean 'sgd'"),
        (lambda p: optimizers.SAM(p, lr=0.1).step(), RuntimeError, r"call step\(closure\)"),
        (lambda p: optimizers.SAM(p, "sam"), ValueError, "SAM cannot go around SAM"),
        (lambda p: optimizers.SAM(p, torch.optim.LBFGS), ValueError, "cannot go around LBFGS"),
        (lambda p: optimizers.Lookahead(p, k=0), ValueError, "k must be a whole number"),
        (lambda p: optimizers.Lookahead(p, alpha=2), ValueError, "alpha must lie between 0 and 1"),
        (lambda p: optimizers.Lookahead(p, rate=2), TypeError, "rate"),
        (lambda p: optimizers.HypergradientDescent(p, "rmsprop"), TypeError, "got RMSprop"),
        (lambda p: optimizers.HypergradientDescent(p, hypergrad_lr=-1), ValueError, "0 or more"),
        (lambda p: optimizers.Muon(p, lr=-1), ValueError, "lr must be 0 or more, got -1"),
        (lambda p: optimizers.Muon(p, adjust_lr_fn="rms"), ValueError, "unknown adjust_lr_fn"),
        (
            lambda p: optimizers.Muon([{"params": p, "adjust_lr_fn": "rms"}]),
            ValueError,
            "unknown adjust_lr_fn",
        ),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message) as caught:
        make(start())
    assert "\n" not in str(caught.value)


def test_a_misspelt_setting_of_the_librarys():
    needs_library("lion")
    with pytest.raises(TypeError, match="unknown setting of Lion 'learning_rate'"):
        optimizers.get("lion", start(), learning_rate=0.1)


def test_without_the_library():
    code = """
import sys
sys.modules['pytorch_optimizer'] = None
import torch, pyconvopt
from pyconvopt import optimizers
w = [torch.nn.Parameter(torch.ones(2, 2))]
optimizers.get('muon', w), optimizers.get('lookahead', w, base='adam')
try:
    optimizers.get('lion', w)
except ImportError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "the optimizer Lion needs pytorch_optimizer" in result.stdout
    assert 'pip install "pyconvopt[optimizers]"' in result.stdout


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("muon", {"lr": 0.02}),
        ("lookahead", {"base": "adam", "lr": 0.02}),
        ("adam_hd", {"hypergrad_lr": 1e-4}),
        ("lion", {"lr": 0.005}),
        ("soap", {"lr": 0.01}),
        ("prodigy", {}),
    ],
)
def test_training(name, settings):
    needs_library(name)
    torch.manual_seed(0)
    x = torch.randn(128, 2)
    model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))
    trainer = Trainer(model, functools.partial(optimizers.get, name, **settings), "cross_entropy")
    losses = trainer.fit((x, (x[:, 0] > 0).long()), epochs=12, batch_size=16, verbose=0)
    assert losses.history["loss"][-1] < 0.6 * losses.history["loss"][0]
