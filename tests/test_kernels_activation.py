"""The kernels of the activations with exponentials beside their definitions in float64.

On every instruction set and as the plain reference version, over a sample of all floats: denormals,
the largest, infinities and not-a-numbers among them.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import pyconvopt as pco
import pyconvopt.ops  # registers the shapes for tracing
from pyconvopt import _C
from pyconvopt.autograd.activation import FUNCTIONS

OPS = torch.ops.pyconvopt
SETS = [*_C.available_isas(), "reference"]

# Written so that float64 loses nothing either: no 1 + tanh or 1 + erf near −1.
DEFINITIONS = {
    "tanh": torch.tanh,
    "elu": lambda x: 1.25 * F.elu(x, 1.5),
    "gelu": lambda x: x * torch.special.erfc(-x / 2**0.5) / 2,
    "gelu_tanh": lambda x: x * torch.sigmoid(2 * (2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)),
    "silu": F.silu,
    "mish": lambda x: x * torch.tanh(F.softplus(x, threshold=40)),
    "softplus": lambda x: F.softplus(x, 1.5, 20.0),
}
CONSTANTS = {"elu": (1.5, 1.25), "softplus": (1.5, 20.0)}


def arguments(name):
    return FUNCTIONS.index(name), *CONSTANTS.get(name, (1.0, 1.0))


def sample_of_all_floats():
    bits = torch.arange(-(1 << 31), 1 << 31, 40009, dtype=torch.int64).to(torch.int32)
    special = torch.tensor(
        [0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-40, -1e-40, 88.0, -88.0]
    )
    return torch.cat([bits.view(torch.float32), special, torch.linspace(-30, 30, 20001)])


def test_every_function_has_a_definition():
    assert set(DEFINITIONS) == set(FUNCTIONS)


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_over_the_whole_range(name, isa):
    x = sample_of_all_floats()
    wanted = DEFINITIONS[name](x.double())
    with pco.settings(isa=isa):
        y = OPS.activation(x, *arguments(name))
    assert torch.equal(y.isnan(), wanted.isnan())
    finite = wanted.abs() <= torch.finfo(torch.float32).max
    assert torch.equal(y[~finite].nan_to_num(7), wanted[~finite].float().nan_to_num(7))
    size = x.double().abs().clamp(max=1e3)
    share = {"gelu": size**2, "gelu_tanh": size**2, "softplus": 1.5 * size}
    share = 1.5e-7 * (4 + share.get(name, 0))
    bound = (share * wanted.abs() + 2e-36)[finite]
    assert ((y.double() - wanted)[finite].abs() <= bound).all()


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_over_the_whole_range(name, isa):
    x = sample_of_all_floats().double().requires_grad_()
    wanted_y = DEFINITIONS[name](x)
    (wanted,) = torch.autograd.grad(wanted_y.sum(), x)
    kept = (wanted_y if name == "tanh" else x).detach().float()
    with pco.settings(isa=isa):
        ours = OPS.activation_backward(torch.ones_like(kept), kept, *arguments(name))
    # Denormals are zero, where ELU's derivative jumps. Beyond 1e18 the formulas of torch and of the
    # kernel alike have 0 · ∞.
    inside = (x.abs() < 1e18) if name != "tanh" else wanted.isfinite()
    inside &= (kept == 0) | (kept.abs() >= torch.finfo(torch.float32).tiny)
    assert ((ours.double() - wanted)[inside].abs() <= 1e-6).all()
    assert ours[x.isnan()].isnan().all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_thread_count_changes_no_bit(name):
    x, g = torch.randn(3, 70001), torch.randn(3, 70001)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(OPS.activation(x, *arguments(name)))
        results.append(OPS.activation_backward(g, x, *arguments(name)))
    for i in (2, 4):
        assert torch.equal(results[0], results[i]) and torch.equal(results[1], results[i + 1])


def test_channels_last_and_odd_sizes():
    x = torch.randn(3, 5, 7, 11).contiguous(memory_format=torch.channels_last)
    y = OPS.activation(x, *arguments("mish"))
    assert y.stride() == x.stride()
    torch.testing.assert_close(y, F.mish(x))
    empty = torch.empty(0, 3)
    assert OPS.activation(empty, *arguments("mish")).shape == (0, 3)
