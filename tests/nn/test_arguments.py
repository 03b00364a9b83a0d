"""Arguments that torch refuses are refused with its error, and what it takes is taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import pyconvopt as pco

from .helpers import assert_same

CHANNELS_LAST = torch.channels_last
ONE = torch.tensor(1)
NAMES = ("conv2d", "conv_transpose2d", "conv1d", "max_pool2d", "avg_pool2d")

REFUSED = [
    (1, 2, 3, 4), (1, 1, 1), (), (1.9, 1), 1.5, True, (True, 1), None, "same", np.bool_(True),
    np.array([1, 1]), np.float64(1), torch.tensor(1.0), torch.tensor([1, 1]),
]  # fmt: skip
TAKEN = [
    1, (1,), [1], (1, 1), [1, 1], torch.Size((1, 1)), np.int64(1), (np.int32(1), 1), ONE, (ONE, 1),
    torch.tensor([1]),
]  # fmt: skip


def outcome(function, *arguments, **options):
    """The result or the error."""
    try:
        return function(*arguments, **options)
    except Exception as error:
        return error


def assert_same_outcome(name, *arguments, **options):
    """Of the same function here and in torch, whose errors about types name the argument."""
    ours, theirs = (outcome(getattr(n, name), *arguments, **options) for n in (pco.functional, F))
    if isinstance(theirs, torch.Tensor):
        assert isinstance(ours, torch.Tensor), ours
        assert_same(ours, theirs)
        assert ours.stride() == theirs.stride()
    else:
        assert type(ours) is type(theirs), (ours, theirs)
        assert str(ours) == str(theirs) or any(each in str(ours) for each in options)
    return theirs


def tensors(name, groups=1):
    """Maps that a kernel here takes, and filters."""
    if name == "conv1d":
        return torch.randn(2, 8, 16).transpose(1, 2), torch.randn(16, 16 // groups, 3)
    x = torch.randn(2, 16, 8, 8).contiguous(memory_format=CHANNELS_LAST)
    return (x,) if "pool" in name else (x, torch.randn(16, 16 // groups, 3, 3))


def names_of(name):
    if "pool" in name:
        return ["kernel_size", "stride", "padding", *["dilation"] * (name == "max_pool2d")]
    return ["stride", "padding", "dilation", *["output_padding"] * (name == "conv_transpose2d")]


@pytest.mark.parametrize("value", REFUSED + TAKEN, ids=repr)
@pytest.mark.parametrize("name", NAMES)
def test_sizes(name, value):
    for argument in names_of(name):
        options = {argument: value}
        if "pool" in name and argument != "kernel_size":
            options["kernel_size"] = 2
        assert_same_outcome(name, *tensors(name), **options)


@pytest.mark.parametrize("stride", [(), [], 2, (2, 2), [2], np.int64(2), (2.9, 2), 0, np.int64(0)])
@pytest.mark.parametrize("kernel_size", [2, (2, 2), np.int64(2), torch.tensor(2), (2.5, 2.5)])
@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d"])
def test_strides_of_2x2_pools(name, kernel_size, stride):
    assert_same_outcome(name, *tensors(name), kernel_size, stride)


@pytest.mark.parametrize("groups", [1.0, True, None, (1,), np.int64(1), ONE], ids=repr)
@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d", "conv1d"])
def test_groups(name, groups):
    assert_same_outcome(name, *tensors(name), groups=groups)


@pytest.mark.parametrize(
    "value", [(1, 2, 3), (2.0, 2), True, np.int64(2), torch.tensor(2)], ids=repr
)
def test_depthwise(value):
    for argument in ("stride", "dilation"):
        assert_same_outcome("conv2d", *tensors("conv2d", 16), groups=16, **{argument: value})


@pytest.mark.parametrize("value", [2, (2, 1, 1), np.int64(2), torch.tensor(2)], ids=repr)
def test_thin_filters(value):
    x = torch.randn(2, 8, 9, 9).contiguous(memory_format=CHANNELS_LAST)
    assert_same_outcome("conv2d", x, torch.randn(16, 8, 1, 1), stride=value)


def test_2x2_windows_given_by_numpy_run_on_the_kernel():
    rows = pco.explain(pco.nn.MaxPool2d(np.int64(2)), *tensors("max_pool2d")).rows
    assert rows[0]["kernel"] == "max_pool2x2"


@pytest.mark.parametrize("which", [0, 1, 2], ids=["input", "weight", "bias"])
@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d", "conv1d"])
def test_arrays_are_no_tensors(name, which):
    arguments = [*tensors(name), torch.zeros(16)]
    arguments[which] = arguments[which].numpy()
    with pytest.raises(TypeError, match="ndarray"):
        getattr(pco.functional, name)(*arguments)


@pytest.mark.parametrize("options", [{"padding": (1, 1, 1)}, {"stride": (1, 1, 1)}], ids=str)
@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_modules(name, options):
    x = torch.randn(2, 16, 8, 8)
    ours, theirs = (outcome(getattr(n, name)(16, 32, 3, **options), x) for n in (pco.nn, torch.nn))
    assert isinstance(theirs, Exception)
    assert (type(ours), str(ours)) == (type(theirs), str(theirs))


@pytest.mark.parametrize("divisor", [-2, 3, 0, True, 2.0, np.int64(3), torch.tensor(3)], ids=repr)
def test_divisors(divisor):
    x = torch.randn(2, 32, 9, 9).contiguous(memory_format=CHANNELS_LAST).requires_grad_()
    theirs = assert_same_outcome("avg_pool2d", x, 3, divisor_override=divisor)
    if isinstance(theirs, torch.Tensor):
        pools = pco.functional.avg_pool2d, F.avg_pool2d
        ours, wanted = (
            torch.autograd.grad(pool(x, 3, divisor_override=divisor).sum(), x)[0] for pool in pools
        )
        assert_same(ours, wanted)


@pytest.mark.parametrize("value", [1, None, np.bool_(True)], ids=repr)
def test_flags(value):
    x = tensors("conv2d")[0]
    assert_same_outcome("max_pool2d", x, 2, ceil_mode=value)
    assert_same_outcome("dropout", x, training=value)
    assert_same_outcome("batch_norm", x, None, None, training=value)


@pytest.mark.parametrize(
    "size", [1, 2, (2, 4), (None, 2), [4, 4], True, (1, 1, 1), (1.0, 1), (np.int64(1), 1), (0, 1)],
    ids=repr,
)  # fmt: skip
def test_output_sizes(size):
    x = torch.randn(2, 32, 8, 8).contiguous(memory_format=CHANNELS_LAST).requires_grad_()
    assert_same_outcome("adaptive_avg_pool2d", x, size)


@pytest.mark.parametrize("momentum", [None, "x", 1, 0.3, np.float32(0.3), torch.tensor(0.3)])
def test_momentum(momentum):
    x = tensors("conv2d")[0]
    moving = [torch.zeros(16), torch.ones(16)], [torch.zeros(16), torch.ones(16)]
    ours, theirs = (
        outcome(n.batch_norm, x, *each, training=True, momentum=momentum)
        for n, each in zip((pco.functional, F), moving, strict=True)
    )
    if isinstance(theirs, torch.Tensor):
        assert_same(ours, theirs)
    else:
        assert (type(ours), str(ours)) == (type(theirs), str(theirs))
    for a, b in zip(*moving, strict=True):
        assert_same(a, b)
