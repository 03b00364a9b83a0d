"""What layers draw follows from seed, step, layer and element alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import pyconvopt as pco
from pyconvopt import _C, draws, layers
from pyconvopt.draws import Draw, drawing

CHANNELS_LAST = torch.channels_last

# All that draws elements for a sample; DropBlock's multiplier is one of the batch, its mask is not.
KINDS = {
    "dropout": lambda: pco.nn.Dropout(0.4),
    "channels": lambda: pco.nn.Dropout2d(0.4),
    "path": lambda: pco.nn.DropPath(0.4),
    "scheduled": lambda: pco.nn.ScheduledDropout(0.4),
    "gaussian dropout": lambda: layers.GaussianDropout(0.4),
    "gaussian noise": lambda: layers.GaussianNoise(0.4),
    "alpha": lambda: layers.AlphaDropout(0.4),
    "block": lambda: pco.nn.DropBlock2d(0.2, 3).draw,
}
EACH = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def seeded(make, x, *place, first=0):
    with drawing(*(place or (0, 1)), first_sample=first, samples=len(x)):
        return make()(x)


@EACH
def test_seed_and_step_decide(make):
    x = torch.rand(16, 8, 6, 6) + 1
    first = seeded(make, x, 3, 5)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert torch.equal(seeded(make, x, 3, 5), first)
    assert torch.equal(torch.get_rng_state(), state)
    for other in ((3, 6), (4, 5), (5, 3)):
        assert not torch.equal(seeded(make, x, *other), first)


def test_numpys_whole_numbers():
    x = torch.ones(8, 50)
    wanted = seeded(KINDS["dropout"], x, 3, 5, first=2)
    place = (np.int64(3), np.uint8(5))
    assert torch.equal(seeded(KINDS["dropout"], x, *place, first=np.int64(2)), wanted)


@EACH
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, CHANNELS_LAST], ids=str)
@pytest.mark.parametrize("shape", [(13, 3, 5, 7), (13, 16, 8, 8), (300, 5, 6, 6)], ids=str)
def test_a_sample_is_that_of_the_joined_batch(make, shape, memory_format):
    x = (torch.rand(shape) + 1).contiguous(memory_format=memory_format)
    whole = seeded(make, x)
    assert torch.equal(seeded(make, x[:7]), whole[:7])
    for begin, end in ((4, 9), (7, 13)):
        assert torch.equal(seeded(make, x[begin:end], first=begin), whole[begin:end])


@EACH
@pytest.mark.parametrize("begin", [0, 2])
def test_type_and_strides_change_nothing(make, begin):
    x = (torch.rand(6, 8, 6, 6) + 1)[begin:]
    plain = seeded(make, x, first=begin)
    assert torch.equal(seeded(make, x.repeat(1, 1, 1, 2)[..., :6], first=begin), plain)
    for dtype in (torch.float64, torch.bfloat16):
        y = seeded(make, x.to(dtype), first=begin)
        assert y.dtype is dtype
        torch.testing.assert_close(y.float(), plain, rtol=0.02, atol=0.02)
    last = x.contiguous(memory_format=CHANNELS_LAST)
    wanted = seeded(make, last, first=begin)
    double = seeded(make, last.double(), first=begin)
    torch.testing.assert_close(double.float(), wanted, rtol=1e-5, atol=1e-5)


def test_the_scale_is_that_of_the_type():
    y = pco.functional.dropout(torch.ones(100, dtype=torch.float64), 0.3)
    assert set(y.tolist()) == {0.0, 1 / (1 - 0.3)}


def test_rows_that_are_samples_times_something_and_others():
    """(samples · time, …) count on as samples do; a weight is every process' own, and the same."""
    x = torch.ones(12, 4, 5)
    with drawing(1, first_sample=0, samples=12):
        whole = pco.functional.dropout(x.flatten(0, 1))
        weight = pco.functional.dropout(torch.ones(31))
    with drawing(1, first_sample=8, samples=4):
        assert torch.equal(pco.functional.dropout(x[8:].flatten(0, 1)), whole[32:])
        assert torch.equal(pco.functional.dropout(torch.ones(31)), weight)


def test_layers_of_one_kind_are_numbered_and_of_another_not():
    x = torch.ones(4, 100)
    with drawing(0, 0):
        one, two = pco.functional.dropout(x), pco.functional.dropout(x)
    assert not torch.equal(one, two)
    with drawing(0, 0):
        layers.GaussianNoise(1.0)(torch.ones(7, 3))
        torch.rand(5)
        assert torch.equal(pco.functional.dropout(x), one)


def test_outside_torchs_seed_rules_and_noise_costs_one_number():
    x, after = torch.ones(4, 100), []
    for size in (5, 500):
        torch.manual_seed(2)
        layers.GaussianNoise(1.0)(torch.ones(size, 3))
        after.append(pco.functional.dropout(x))
    assert torch.equal(*after)


@pytest.mark.parametrize("pool", [False, True])
def test_fused_with_batch_norm(pool):
    x = torch.randn(6, 16, 8, 8).contiguous(memory_format=CHANNELS_LAST)
    mean, var = torch.zeros(16), torch.ones(16)

    def normed(part, dropout):
        return pco.functional.batch_norm(
            part, mean, var, activation="relu", pool=pool, dropout=dropout
        )

    with drawing(0, first_sample=0, samples=6):
        whole, after = normed(x, 0.5), pco.functional.dropout(torch.ones(6, 9))
    with drawing(0):
        torch.testing.assert_close(pco.functional.dropout(normed(x, 0.0)), whole)
    with drawing(0, first_sample=2, samples=4):
        torch.testing.assert_close(normed(x[2:], 0.5), whole[2:])
        assert torch.equal(pco.functional.dropout(torch.ones(4, 9)), after[2:])


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("first", [0, 3])
def test_checkpointing_draws_the_same_again(reentrant, first):
    x = torch.randn(8, 16, 8, 8).contiguous(memory_format=CHANNELS_LAST)

    def part(x):
        y = pco.functional.batch_norm(x, None, None, training=True, activation="relu", dropout=0.3)
        for make in (*list(KINDS.values())[:-1], lambda: nn.Dropout(0.3)):
            y = make()(y)
        return y

    found = []
    for outer in (part, lambda x: checkpoint(part, x, use_reentrant=reentrant)):
        leaf = x.clone().requires_grad_()
        with drawing(0, 4, first_sample=first, samples=8):
            y = outer(pco.functional.dropout(leaf))
        y.square().sum().backward()
        found.append((y.detach(), leaf.grad))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_transforms_are_torchs():
    x = torch.randn(5, 30)
    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(pco.functional.dropout)(x)
    for kind in ("dropout", "path", "gaussian noise"):
        layer = KINDS[kind]()
        torch.manual_seed(2)
        g = torch.func.grad(lambda x, layer=layer: layer(x).sum())(x)
        torch.manual_seed(2)
        wanted = nn.Dropout(0.4)(torch.ones(5, 30)) if kind == "dropout" else g
        assert g.shape == x.shape and torch.equal(g, wanted)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        y, tangent = torch.autograd.forward_ad.unpack_dual(pco.functional.dropout(dual, 0.5))
        torch.testing.assert_close(y, x * tangent)


@pytest.mark.parametrize("start", [1, 63, 1000, draws.BLOCK * 4 + 17])
def test_far_elements_are_the_kernels(monkeypatch, start):
    draw = Draw(2**62 + 12345, first_sample=start, samples=5000)
    near = draws.kept((5000,), 0.3, draw)
    monkeypatch.setattr(draws, "FAR", 0)
    assert torch.equal(draws.kept((5000,), 0.3, draw), near)
    exact = [_C.dropout_multiplier(0.3, draw.key, 0, start + i) > 0 for i in range(5000)]
    assert near.tolist() == exact


def test_normal_numbers_start_anywhere():
    whole = draws.normal((3 * draws.BLOCK,), Draw(7))
    assert abs(whole.mean()) < 0.01 and abs(whole.std() - 1) < 0.01
    neighbours = (whole[1:] * whole[:-1]).mean()
    assert abs(neighbours) < 0.01
    for start, count in ((1, 5), (draws.BLOCK - 3, 40), (draws.BLOCK, draws.BLOCK + 1)):
        part = draws.normal((count,), Draw(7, first_sample=start, samples=count))
        assert torch.equal(part, whole[start : start + count])
