"""Activation functions and modules beside torch's."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

import pyconvopt as pco
from pyconvopt.functional.activation import SMALLEST

MODULES = [
    ("Tanh", ()), ("ELU", (0.5,)), ("ELU", (0.0,)), ("ELU", (-0.5,)), ("SELU", ()), ("GELU", ()),
    ("GELU", ("tanh",)),
    ("SiLU", ()), ("Mish", ()), ("Softplus", ()), ("Softplus", (2.0, 5.0)), ("Softplus", (0.5, 30)),
]  # fmt: skip
BY_TORCH = ["Sigmoid", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU"]
IN_PLACE = ["ELU", "SELU", "SiLU", "Mish"]


def large(**options):
    x = torch.randn(2, 8, 33, 32, **options).mul(4)
    assert x.numel() >= SMALLEST
    return x


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(("name", "arguments"), MODULES, ids=str)
def test_module_is_a_drop_in(name, arguments, memory_format):
    ours, theirs = getattr(pco.nn, name)(*arguments), getattr(torch.nn, name)(*arguments)
    assert isinstance(ours, type(theirs)) and repr(ours) == repr(theirs)
    assert ours.state_dict() == theirs.state_dict() == {}
    ours = pickle.loads(pickle.dumps(copy.deepcopy(ours)))
    x = large().contiguous(memory_format=memory_format)
    results = []
    for module in (ours, theirs):
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        # A gradient in another memory format than the input's.
        y.backward(torch.cos(x).contiguous())
        with torch.no_grad():
            assert torch.equal(module(x), y)
        results.append((y.detach(), leaf.grad, y.stride()))
    torch.testing.assert_close(results[0][:2], results[1][:2], rtol=2e-6, atol=2e-6)
    assert results[0][2] == results[1][2]


@pytest.mark.parametrize("name", BY_TORCH)
def test_torchs_own_where_it_is_at_the_speed_of_memory(name):
    assert getattr(pco.nn, name) is getattr(torch.nn, name)


def kernels(function, x):
    rows = pco.explain(Module(function), x).rows
    return {row["pass"]: row["kernel"] for row in rows}


class Module(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def test_explain_names_the_kernel_of_each_pass():
    assert kernels(pco.functional.mish, large()) == {
        "forward": "exponential",
        "backward": "exponential",
    }
    assert kernels(pco.functional.gelu, large()) == {"forward": "torch", "backward": "exponential"}
    for x in (torch.randn(4), large(dtype=torch.float64), large()[..., ::2]):
        assert set(kernels(pco.functional.mish, x).values()) == {"torch"}


@pytest.mark.parametrize("size", [100, SMALLEST + 5])
@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place(name, size):
    ours, theirs = (getattr(library, name)(inplace=True) for library in (pco.nn, torch.nn))
    x = large()
    assert ours(x) is x
    results = []
    for module in (ours, theirs):
        leaf = torch.linspace(-3, 3, size).requires_grad_()
        y = module(leaf * 1.5)
        y.sum().backward()
        results.append((y.detach(), leaf.grad))
    torch.testing.assert_close(*results, rtol=2e-6, atol=2e-6)
    with pytest.raises(RuntimeError, match="leaf"):
        ours(large().requires_grad_())


@pytest.mark.parametrize(("name", "arguments"), MODULES, ids=str)
def test_gradient_of_the_gradient(name, arguments):
    x = torch.linspace(-3, 3.1, SMALLEST)
    results = []
    for library, dtype in ((pco.nn, torch.float32), (torch.nn, torch.float64)):
        leaf = x.to(dtype).requires_grad_()
        y = getattr(library, name)(*arguments)(leaf)
        (first,) = torch.autograd.grad(y.square().sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), leaf)
        results.append((first.detach().float(), second.float()))
    torch.testing.assert_close(*results, rtol=2e-5, atol=2e-5)


def saved_bytes(function):
    found = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: found.append(t) or t, lambda t: t):
        y = function(large().requires_grad_())
    return found, y


def test_tanh_keeps_the_output_alone():
    found, y = saved_bytes(pco.functional.tanh)
    assert [t.data_ptr() for t in found] == [y.data_ptr()]


@pytest.mark.parametrize("name", ["elu", "selu", "softplus", "gelu", "silu", "mish"])
def test_keeps_one_tensor(name):
    assert len(saved_bytes(getattr(pco.functional, name))[0]) == 1


@pytest.mark.parametrize(("name", "arguments"), MODULES, ids=str)
def test_results_may_be_written_over_where_torchs_may(name, arguments):
    results = []
    for library in (pco.nn, torch.nn):
        leaf = torch.linspace(-3, 3.1, SMALLEST).requires_grad_()
        y = getattr(library, name)(*arguments)(leaf)
        y.mul_(2)
        if name == "Tanh":
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                y.sum().backward()
        else:
            y.sum().backward()
            results.append(leaf.grad)
    torch.testing.assert_close(results[:1], results[1:], rtol=2e-6, atol=2e-6)


def test_bad_arguments_get_torchs_error():
    for function in (pco.functional.gelu, F.gelu):
        with pytest.raises(RuntimeError, match="approximate argument must be either none or tanh"):
            function(large(), approximate="erf")


def test_accelerate_swaps_them_and_restore_gives_them_back():
    model = torch.nn.Sequential(*[getattr(torch.nn, name)(*args) for name, args in MODULES])
    fast = pco.accelerate(model)
    assert [type(m) for m in fast] == [getattr(pco.nn, name) for name, _ in MODULES]
    x = large()
    torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)
    assert [type(m) for m in pco.restore(fast)] == [type(m) for m in model]


@pytest.mark.parametrize("name", ["tanh", "gelu", "softplus", "elu", "selu", "silu", "mish"])
def test_activations_by_name_use_them(name):
    assert set(kernels(pco.activations.get(name), large()).values()) >= {"exponential"}


def test_transforms_and_compilation_see_torchs_operations():
    x = large()
    torch.testing.assert_close(
        torch.func.vmap(pco.functional.mish)(x), F.mish(x), rtol=1e-6, atol=1e-6
    )
    exported = torch.export.export(Module(pco.functional.mish), (x,))
    assert "pyconvopt" not in str(exported.graph)
