"""Average pooling beside torch's: results, gradients, what is kept for backward."""

from __future__ import annotations

import pytest
import torch

import pyconvopt as pco
from pyconvopt import _C

# kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
WINDOWS = [
    (2,), (3, 2, 1), (3, 1, 1, False, False), (2, 3), ((2, 3), (1, 2), (1, 0)), (3, 2, 1, True),
    (3, 2, 1, True, False), (3, 2, 0, False, True, 5), (2, None, 1, True, True),
]  # fmt: skip
SHAPES = [(3, 35, 7, 8), (2, 64, 12, 9), (1, 37, 3, 3)]


def image(*shape):
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def assert_same(ours, theirs, x):
    assert repr(ours) == repr(theirs) and isinstance(ours, type(theirs))
    results = []
    for module, dtype in ((ours, torch.float32), (theirs, torch.float64)):
        leaf = x.detach().to(dtype, copy=True).requires_grad_()
        y = module(leaf)
        torch.manual_seed(1)
        y.backward(torch.randn(y.shape).to(dtype))
        results.append((y.detach().double(), leaf.grad.double()))
        assert leaf.grad.stride() == x.stride()
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("isa", [*_C.available_isas(), "reference"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("windows", WINDOWS, ids=str)
def test_avg_pool(windows, shape, isa):
    with pco.settings(isa=isa):
        assert_same(pco.nn.AvgPool2d(*windows), torch.nn.AvgPool2d(*windows), image(*shape))


@pytest.mark.parametrize(
    "output_size", [1, (1, 1), 2, (None, 3), (4, None), (3, 3), (5, 2), 12], ids=str
)
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format], ids=str)
def test_adaptive_avg_pool(output_size, memory_format):
    x = torch.randn(2, 33, 12, 9).contiguous(memory_format=memory_format)
    arguments = (output_size,)
    assert_same(pco.nn.AdaptiveAvgPool2d(*arguments), torch.nn.AdaptiveAvgPool2d(*arguments), x)


def kernels(module, x):
    return {row["pass"]: row["kernel"] for row in pco.explain(module, x).rows}


def test_kernel_of_each_pass():
    own = {"forward": "torch", "backward": "gather"}
    torchs = {"forward": "torch", "backward": "torch"}
    x = image(2, 40, 12, 12)
    assert kernels(pco.nn.AvgPool2d(3, 2), x) == kernels(pco.nn.AdaptiveAvgPool2d(4), x) == own
    assert kernels(pco.nn.AvgPool2d(3, 2), x.contiguous()) == torchs
    assert kernels(pco.nn.AvgPool2d(3, 2), x[:, :16].contiguous()) == torchs
    assert kernels(pco.nn.AdaptiveAvgPool2d(5), x) == torchs  # parts of several sizes


@pytest.mark.parametrize("module", [pco.nn.AvgPool2d(3, 2, 1), pco.nn.AdaptiveAvgPool2d(1)])
def test_keeps_nothing_and_has_second_derivatives(module):
    kept = []
    x = image(2, 33, 6, 6).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = module(x)
    assert not kept
    results = []
    plain = type(module).__mro__[1]
    for forward, leaf in ((module, x), (lambda t: plain.forward(module, t), x.detach().double())):
        leaf = leaf.detach().requires_grad_()
        (first,) = torch.autograd.grad(forward(leaf).pow(3).sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), leaf)
        results.append((first.detach().float(), second.float()))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
    assert y.requires_grad


def test_thread_count_changes_no_bit():
    g = image(3, 40, 40, 41)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(torch.ops.pyconvopt.avg_pool2d_backward(g, 81, 83, 3, 3, 2, 2, 1, 1, True, 0))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_bad_arguments_get_torchs_error():
    x = image(2, 32, 6, 6).requires_grad_()
    for library in (pco.nn, torch.nn):
        with pytest.raises(RuntimeError, match="pad should be at most half"):
            library.AvgPool2d(2, 2, 2)(x)
        with pytest.raises(RuntimeError, match="stride should not be zero"):
            library.AvgPool2d(2, 0)(x)
        with pytest.raises(RuntimeError, match="divisor must be not zero"):
            library.AvgPool2d(2, divisor_override=0)(x)
