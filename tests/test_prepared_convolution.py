"""Convolution with a weight prepared once, and with all that may follow it, on every instruction set."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import pyconvopt as pco

from .cases import CONV_CASES

OPS = torch.ops.pyconvopt
ACTIVATIONS = (lambda y: y, F.relu, F.relu6, F.hardswish)
CHANNELS_LAST = torch.channels_last


def problem(case, residual):
    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        t = torch.randn(shape, generator=generator)
        return t.contiguous(memory_format=CHANNELS_LAST) if len(shape) == 4 else t

    x = draw(case.batch, case.channels, case.height, case.width)
    weight = draw(case.out_channels, case.channels // case.groups, *case.kernel) * 0.2
    bias = draw(case.out_channels)
    wanted = F.conv2d(
        x.double(),
        weight.double(),
        bias.double(),
        case.stride,
        case.padding,
        case.dilation,
        case.groups,
    )
    other = draw(*wanted.shape) if residual else None
    hyper = (*case.stride, *case.padding, *case.dilation, case.groups)
    return x, weight, bias, other, hyper, wanted if other is None else wanted + other.double()


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("case", CONV_CASES, ids=lambda case: case.name)
def test_prepared(case, residual, isa):
    x, weight, bias, other, hyper, wanted = problem(case, residual)
    prepared = OPS.conv2d_prepare(weight, *x.shape, *hyper, residual)
    for index, activation in enumerate(ACTIVATIONS):
        y = OPS.conv2d_prepared(x, prepared, weight, bias, other, *hyper, index)
        assert y.is_contiguous(memory_format=CHANNELS_LAST)
        error = (y.double() - activation(wanted)).abs().max().item()
        assert error <= 1e-4 * max(wanted.abs().max().item(), 1e-30)


def test_refused():
    weight = torch.randn(64, 64, 3, 3).contiguous(memory_format=CHANNELS_LAST)
    x = torch.randn(2, 64, 16, 16).contiguous(memory_format=CHANNELS_LAST)
    hyper = (1, 1, 1, 1, 1, 1, 1)
    prepared = OPS.conv2d_prepare(weight, *x.shape, *hyper, False)
    assert prepared.numel() > weight.numel()
    with (
        pco.settings(winograd=False),
        pytest.raises(RuntimeError, match="prepared for other shapes or settings"),
    ):
        OPS.conv2d_prepared(x, prepared, weight, None, None, *hyper, 0)
    with pytest.raises(RuntimeError, match="residual of shape"):
        OPS.conv2d_prepared(x, prepared, weight, None, x[:1].clone(), *hyper, 0)
    with pytest.raises(RuntimeError, match="activation 0 to 3"):
        OPS.conv2d_prepared(x, prepared, weight, None, None, *hyper, 9)
