"""Dropout, max-pooling, ReLU and dense modules beside torch's."""

from __future__ import annotations

import pickle

import pytest
import torch

import pyconvopt as pco

from ..cases import MAP_SHAPES
from .helpers import assert_same, assert_same_step

FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("shape", MAP_SHAPES, ids=str)
def test_max_pool(shape, memory_format, isa):
    x = torch.randn(shape).contiguous(memory_format=memory_format)
    assert_same_step(pco.nn.MaxPool2d(2), torch.nn.MaxPool2d(2), x)


@pytest.mark.parametrize(
    "arguments",
    [(3,), (2, 1), (3, 2, 1), (2, 2, 0, 2), (2, None, 0, 1, True), (2, None, 0, 1, False, True),
     ((2, 2), (2, 2)), ((3, 2),)],
    ids=str,
)  # fmt: skip
def test_max_pool_arguments(arguments):
    ours, theirs = pco.nn.MaxPool2d(*arguments), torch.nn.MaxPool2d(*arguments)
    assert repr(ours) == repr(theirs)
    for ours_y, wanted in zip(
        *[
            [m(x) for x in (torch.randn(2, 3, 8, 9), torch.randn(3, 7, 7))]
            for m in (theirs, theirs)
        ],
        strict=True,
    ):
        assert type(ours_y) is type(wanted)
    x = torch.randn(2, 5, 9, 7).contiguous(memory_format=torch.channels_last)
    y, wanted = ours(x), theirs(x)
    if isinstance(wanted, tuple):
        assert all(torch.equal(a, b) for a, b in zip(y, wanted, strict=True))
    else:
        assert torch.equal(y, wanted)


def test_max_pool_keeps_nan():
    x = torch.randn(1, 3, 6, 6).contiguous(memory_format=torch.channels_last)
    x[0, 0, 0, 0] = x[0, 1, 3, 2] = float("nan")
    x[0, 2] = float("-inf")
    y, wanted = pco.nn.MaxPool2d(2)(x), torch.nn.MaxPool2d(2)(x)
    assert torch.equal(torch.isnan(y), torch.isnan(wanted))
    assert torch.equal(y.nan_to_num(), wanted.nan_to_num())


def test_max_pool_double_backward_and_gradcheck():
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pco.nn.MaxPool2d(2), (x,))
    x = torch.randn(2, 3, 5, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    results = []
    for pool in (pco.nn.MaxPool2d(2), torch.nn.MaxPool2d(2)):
        (g,) = torch.autograd.grad(pool(x).pow(3).sum(), x, create_graph=True)
        results.append(torch.autograd.grad(g.square().sum(), x)[0])
    assert_same(*results)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_dropout_statistics_and_gradient(p, memory_format):
    x = (torch.rand(16, 32, 20, 20) + 0.5).contiguous(memory_format=memory_format)
    x.requires_grad_()
    y = pco.nn.Dropout(p)(x)
    kept = y != 0
    share = kept.double().mean().item()
    assert abs(share - (1 - p)) < 4 * (p * (1 - p) / x.numel()) ** 0.5
    assert torch.equal(y[kept], (x * torch.tensor(1 / (1 - p)))[kept])
    g = torch.randn(x.shape)
    y.backward(g)
    assert torch.equal(x.grad != 0, kept)
    assert_same(x.grad, g * kept / (1 - p), 1e-5)
    neighbours = (kept[..., 1:] == kept[..., :-1]).double().mean().item()
    assert abs(neighbours - (p * p + (1 - p) ** 2)) < 0.01, "elements are independent"


def test_dropout_follows_torchs_seed_and_no_thread_count():
    x = torch.ones(64, 33, 7)
    torch.manual_seed(3)
    first = pco.functional.dropout(x, 0.5)
    second = pco.functional.dropout(x, 0.5)
    assert not torch.equal(first, second)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        torch.manual_seed(3)
        assert torch.equal(pco.functional.dropout(x, 0.5), first)


def test_dropout_edges():
    x = torch.randn(4, 8, 3, 3)
    assert torch.equal(pco.nn.Dropout(0.5).eval()(x), x)
    assert torch.equal(pco.nn.Dropout(0.0)(x), x)
    assert not pco.nn.Dropout(1.0)(x).any()
    with pytest.raises(ValueError, match="probability has to be between 0 and 1"):
        pco.nn.Dropout(1.5)
    y = x.clone()
    result = pco.nn.Dropout(0.5, inplace=True)(y)
    assert result is y and (y == 0).any()
    assert pco.nn.Dropout(0.5)(x.double()).dtype == torch.float64
    assert pco.nn.Dropout(0.5)(x[:, ::2]).shape == (4, 4, 3, 3)


def test_dropout_double_backward():
    x = torch.randn(4, 8, 3, 3, requires_grad=True)
    y = pco.functional.dropout(x, 0.5)
    mask = (y / x).detach()
    (g,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
    (gg,) = torch.autograd.grad(g.sum(), x)
    assert_same(gg, 6 * x.detach() * mask**3, 1e-5)


def test_dropout2d_drops_whole_channels(isa):
    x = torch.ones(16, 64, 5, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = pco.nn.Dropout2d(0.3)(x)
    assert torch.equal(y, y[:, :, :1, :1].expand_as(y))
    share = (y[:, :, 0, 0] != 0).double().mean().item()
    assert abs(share - 0.7) < 4 * (0.21 / 1024) ** 0.5
    y.sum().backward()
    assert torch.equal(x.grad, y)


@pytest.mark.parametrize("make", [lambda n: n.ReLU(), lambda n: n.ReLU(inplace=True)])
def test_relu(make):
    ours, theirs = make(pco.nn), make(torch.nn)
    assert repr(ours) == repr(theirs)
    x = torch.tensor([-1.0, -0.0, 0.0, 2.0, float("nan"), float("inf"), float("-inf")])
    assert torch.equal(ours(x.clone()).nan_to_num(7.5), theirs(x.clone()).nan_to_num(7.5))


def test_linear():
    ours, theirs = pco.nn.Linear(7, 5), torch.nn.Linear(7, 5)
    theirs.load_state_dict(ours.state_dict())
    assert_same_step(ours, theirs, torch.randn(3, 7))
    y = pco.functional.linear(torch.randn(3, 7), ours.weight, ours.bias, activation="relu")
    assert (y >= 0).all()


@pytest.mark.parametrize("name", [name for name in pco.nn.__all__ if hasattr(torch.nn, name)])
def test_every_module_of_a_torch_name_is_torchs_subclass_and_pickles(name):
    ours, theirs = getattr(pco.nn, name), getattr(torch.nn, name)
    # DistributedDataParallel refuses torch's SyncBatchNorm and its subclasses on a CPU.
    assert issubclass(ours, theirs) or name == "SyncBatchNorm"
    arguments = {
        "Conv2d": (4, 8, 3),
        "Linear": (4, 8),
        "LazyConv2d": (8, 3),
        "LazyLinear": (8,),
        "BatchNorm2d": (4,),
        "SyncBatchNorm": (4,),
        "MaxPool2d": (2,),
        "AvgPool2d": (3, 2, 1),
        "Conv1d": (3, 4, 3),
        "ConvTranspose2d": (3, 4, 3),
        "AdaptiveAvgPool2d": ((2, 3),),
    }
    module = ours(*arguments.get(name, ()))
    other = theirs(*arguments.get(name, ()))
    assert list(module.state_dict()) == list(other.state_dict())
    assert repr(pickle.loads(pickle.dumps(module))) == repr(module) == repr(other)


@pytest.mark.parametrize("name", ["AvgPool2d", "AdaptiveAvgPool2d"])
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_average_pools(name, memory_format):
    x = torch.randn(2, 5, 9, 8).contiguous(memory_format=memory_format)
    assert_same_step(getattr(pco.nn, name)(2), getattr(torch.nn, name)(2), x)
