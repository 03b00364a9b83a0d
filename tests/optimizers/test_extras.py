"""What a fused step does beside its rule, beside the same done apart with torch's operations."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from pyconvopt import optimizers
from pyconvopt.optimizers.extras import Extras, scale_to, total_norm
from tests.optimizers.test_fused import SHAPES, give_gradients, make_parameters

MAKE = {
    "sgd": lambda p: optimizers.SGD(p, lr=0.05),
    "momentum": lambda p: optimizers.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "maximize": lambda p: optimizers.SGD(p, lr=0.01, momentum=0.9, maximize=True),
    "adam": lambda p: optimizers.Adam(p, lr=1e-2),
    "adamw": lambda p: optimizers.AdamW(p, lr=1e-2),
    "amsgrad": lambda p: optimizers.Adam(p, lr=1e-2, amsgrad=True),  # torch's own step
}
# Rows longer than a piece of the kernel, and many rows in several pieces.
LONG = [(3, 20000), (700, 100), (40, 1000)]


def extras_for(parameters):
    """Thresholds for some, bounds for some, both for some."""
    several = [p for p in parameters if p.dim() > 1 and p.numel()]
    shrink = {id(p): 0.01 * (1 + i % 3) for i, p in enumerate(parameters) if i % 2 == 0}
    return Extras(0.3, shrink, {id(p): 0.5 + i for i, p in enumerate(several)})


def apart(optimizer, parameters, extras):
    """The same step, with torch's operations before and after it."""
    for p in parameters:
        if p.grad is not None:
            p.grad.mul_(extras.scale)
    optimizer.step()
    with torch.no_grad():
        for p in parameters:
            if id(p) in extras.shrink:
                p.copy_(torch.nn.functional.softshrink(p, extras.shrink[id(p)]))
            if id(p) in extras.bound:
                norm = p.double().flatten(1).norm(dim=1).view(-1, *[1] * (p.dim() - 1))
                p.copy_(p * (norm.clamp(max=extras.bound[id(p)]) / (norm + 1e-7)))


@pytest.mark.parametrize("shapes", [SHAPES, LONG], ids=["short", "long"])
@pytest.mark.parametrize("name", MAKE)
def test_beside_the_same_done_apart(name, shapes):
    ours, theirs = make_parameters(shapes=shapes), make_parameters(shapes=shapes)
    optimizer, other = MAKE[name](ours), MAKE[name](theirs)
    for step in range(4):
        for parameters in (ours, theirs):
            give_gradients(parameters, torch.Generator().manual_seed(step))
            parameters[1].grad = None if step % 2 else parameters[1].grad
        optimizer.extras = extras_for(ours)
        optimizer.step()
        apart(other, theirs, extras_for(theirs))
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert any((p == 0).any() for p in ours)


@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_threads_change_no_bit(name):
    found = []
    for threads in (1, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            parameters = make_parameters(shapes=LONG)
            optimizer = MAKE[name](parameters)
            give_gradients(parameters, torch.Generator().manual_seed(0))
            optimizer.extras = extras_for(parameters)
            optimizer.step()
            found.append((parameters, total_norm([p.grad for p in parameters])))
        finally:
            torch.set_num_threads(before)
    for a, b in zip(*(parameters for parameters, _ in found), strict=True):
        assert torch.equal(a, b)
    assert found[0][1] == found[1][1]


def test_they_are_those_of_one_step():
    w = nn.Parameter(torch.ones(4))
    w.grad = torch.zeros(4)
    optimizer = optimizers.SGD([w], lr=0.1)
    optimizer.extras = Extras(shrink={id(w): 0.25})
    optimizer.step()
    optimizer.step()
    assert optimizer.extras is None and w.tolist() == [0.75] * 4


def test_other_types_take_torchs_step_and_the_extras_too():
    w = nn.Parameter(torch.tensor([[3.0, 4.0], [0.3, -0.05]], dtype=torch.float64))
    w.grad = torch.ones_like(w)
    optimizer = optimizers.SGD([w], lr=0.1)
    optimizer.extras = Extras(0.5, {id(w): 0.1}, {id(w): 1.0})
    optimizer.step()
    row = torch.tensor([2.85, 3.85], dtype=torch.float64)
    wanted = torch.stack([row / row.norm(), torch.tensor([0.15, 0.0], dtype=torch.float64)])
    torch.testing.assert_close(w.detach(), wanted, rtol=1e-6, atol=1e-6)


def test_weights_that_are_no_numbers_stay_so():
    w = nn.Parameter(torch.tensor([[math.nan, 1.0, math.inf, 2.0]] * 9))
    w.grad = torch.zeros_like(w)
    optimizer = optimizers.SGD([w], lr=0.1)
    optimizer.extras = Extras(shrink={id(w): 0.5})
    optimizer.step()
    assert w[0].isnan().tolist() == [True, False, False, False]
    assert w[0, 1:].tolist() == [0.5, math.inf, 1.5]


def test_the_norm_of_all_gradients():
    parameters = make_parameters(shapes=[*SHAPES, *LONG])
    give_gradients(parameters, torch.Generator().manual_seed(0))
    gradients = [p.grad for p in parameters]
    wanted = float(torch.cat([g.double().flatten() for g in gradients]).norm())
    assert total_norm(gradients) == pytest.approx(wanted, rel=1e-6)
    gradients[0] = gradients[0].double()  # torch's then
    assert total_norm(gradients) == pytest.approx(wanted, rel=1e-6)
    assert total_norm([torch.ones(4, 4)[:, ::2]]) == pytest.approx(8**0.5)
    assert total_norm([]) == 0


@pytest.mark.parametrize("size", [0.0, 0.5, 1.0, 7.0, math.inf, math.nan])
def test_the_scale_is_that_of_torchs_clipping(size):
    w = nn.Parameter(torch.zeros(1))
    w.grad = torch.tensor([size])
    nn.utils.clip_grad_norm_([w], 1.0)
    mine = torch.tensor(size) * scale_to(size, 1.0)
    torch.testing.assert_close(mine.view(1), w.grad, equal_nan=True)


def test_the_operators_refuse_other_tables():
    w, g = torch.ones(2, 2), torch.ones(2, 2)
    arguments = ([w], [g], [], 0.1, 0.0, 0.0, 0.0, False, False, False, 1.0)
    for table in (torch.zeros(1, 2), torch.zeros(2, 2).double(), torch.zeros(1, 3).double()):
        with pytest.raises(RuntimeError, match="matrix of float64 on the CPU with 1 rows"):
            torch.ops.pyconvopt.sgd_step_(*arguments, table)
    with pytest.raises(RuntimeError, match="threshold of 0 or more, but got -1"):
        torch.ops.pyconvopt.sgd_step_(*arguments, torch.tensor([[-1.0, 1.0]]).double())
    assert torch.equal(w, torch.ones(2, 2))


def test_a_copy_knows_of_none():
    w = nn.Parameter(torch.ones(2))
    optimizer = optimizers.Adam([w])
    optimizer.extras = Extras(0.5)
    assert "extras" not in optimizer.state_dict()
    assert copy.deepcopy(optimizer).state_dict() == optimizer.state_dict()
