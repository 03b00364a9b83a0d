"""NaN, infinities and denormal numbers through the kernels.

A NaN or infinity reaches at least every result whose sum it is a term of (taps on the padding aside,
where torch's own kernels differ), and never another image or channel: Winograd spreads it over the
tiles that it touches, and padding's zeros times it are NaN.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import pyconvopt as pco
from pyconvopt import _C

from ..cases import CONV_CASES
from ..test_kernels_conv import expected, geometry, kernels_for, make_arrays

OPS = torch.ops.pyconvopt
SMALL = [case for case in CONV_CASES if case.macs < 2_000_000]
SPECIAL = [math.nan, math.inf, -math.inf]


def touched(case, **marked):
    """Which results have a term with a marked element: all three passes on ones and the marks."""
    arrays = dict(zip("xwbg", (np.ones_like(a) for a in make_arrays(case)), strict=True))
    arrays["b"] *= 0
    return [result > 0.5 for result in expected(case, **{**arrays, **marked})]


def others(shape, axis, index):
    """Everything along an axis but one index."""
    mask = np.ones(shape, bool)
    mask[(slice(None),) * axis + (index,)] = False
    return mask


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_convolution_spreads_them_as_far_as_it_must_and_no_further(case, isa):
    """Input, weight and output gradient in turn: which axis of which result has to stay clean."""
    size, group_outputs = (case.height, case.width), case.out_channels // case.groups
    group_channels = case.channels // case.groups
    for name, value in zip("xwg", SPECIAL, strict=True):
        arrays = dict(zip("xwbg", make_arrays(case), strict=True))
        place = tuple(n // 2 for n in arrays[name].shape)
        arrays[name][place] = value
        mark = np.zeros_like(arrays[name])
        mark[place] = 1
        y_touched, dx_touched, dw_touched = touched(case, **{name: mark})
        x, w, g = (arrays[key] for key in "xwg")
        if name != "g":
            axis, index = (0, place[0]) if name == "x" else (3, place[0])
            for kernel in kernels_for(case, "forward"):
                y = _C.conv_forward(x, w, None, *geometry(case), False, False, kernel)
                assert not np.isfinite(y[y_touched]).any()
                assert np.isfinite(y[others(y.shape, axis, index)]).all()
        if name != "x":
            channel = place[0] // group_outputs * group_channels + place[3]
            axis, index = (0, place[0]) if name == "g" else (3, channel)
            for kernel in kernels_for(case, "data_gradient"):
                dx = _C.conv_data_gradient(g, w, size, *geometry(case), kernel)
                assert not np.isfinite(dx[dx_touched]).any()
                assert np.isfinite(dx[others(dx.shape, axis, index)]).all()
        if name != "w":
            axis, index = (0, place[3]) if name == "g" else (3, place[3] % group_channels)
            for kernel in kernels_for(case, "weight_gradient"):
                dw = _C.conv_weight_gradient(x, g, case.kernel, *geometry(case), kernel)
                assert not np.isfinite(dw[dw_touched]).any()
                assert np.isfinite(dw[others(dw.shape, axis, index)]).all()


@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("value", SPECIAL)
def test_fused_relu_and_pool_keep_nan(value, channels, isa):
    """As torch: ReLU lets NaN pass and stops -inf, the pool's maximum with NaN is NaN."""
    x = torch.randn(2, channels, 8, 8).contiguous(memory_format=torch.channels_last)
    w, b = torch.randn(32, channels, 3, 3), torch.zeros(32)
    b[5] = value
    y = F.relu(F.conv2d(x, w, b))
    ours = pco.functional.conv2d(x, w, b, activation="relu")
    torch.testing.assert_close(ours, y, rtol=1e-3, atol=1e-3, equal_nan=True)
    ours = pco.functional.conv2d_max_pool(x, w, b, activation="relu")
    torch.testing.assert_close(ours, F.max_pool2d(y, 2), rtol=1e-3, atol=1e-3, equal_nan=True)


@pytest.mark.parametrize("value", SPECIAL)
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_optimisers_as_torch(name, value, isa):
    options = {"lr": 0.1, **({"momentum": 0.9} if name == "SGD" else {})}
    results = []
    for module in (torch.optim, pco.optimizers):
        p = torch.nn.Parameter(torch.linspace(-1, 1, 40))
        optimizer = getattr(module, name)([p], **options)
        for element in (3, 39):
            p.grad = torch.linspace(-2, 2, 40)
            p.grad[element] = value
            optimizer.step()
        results.append(p.detach())
    torch.testing.assert_close(*results, equal_nan=True)


# --- denormals: taken as zero, so a result is off by no more than its terms at the smallest normal number

SMALLEST = torch.finfo(torch.float32).tiny


def denormal(*shape):
    x = torch.rand(shape) * SMALLEST * 0.9
    return x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_convolution_of_denormals(case, isa):
    x, w, _, g = make_arrays(case)
    x, g = (a * np.float32(SMALLEST * 0.1) for a in (x, g))
    y, dx, _ = expected(case, x, w, np.zeros(case.out_channels, np.float32), g)
    taps = w[0].size * max(1, case.out_channels // case.channels)
    bound = 400 * taps * SMALLEST * np.abs(w).max()  # 400: sums of Winograd's transforms
    for kernel in kernels_for(case, "forward"):
        ours = _C.conv_forward(x, w, None, *geometry(case), False, False, kernel)
        assert np.abs(ours - y).max() <= bound
    for kernel in kernels_for(case, "data_gradient"):
        size = (case.height, case.width)
        assert (
            np.abs(_C.conv_data_gradient(g, w, size, *geometry(case), kernel) - dx).max() <= bound
        )
    assert (torch.full((9,), SMALLEST / 2) * 1.0 > 0).all(), (
        "the caller's own arithmetic keeps them"
    )


def test_elementwise_operators_on_denormals(isa):
    x = denormal(3, 20, 6, 6)
    terms = 3 * 6 * 6
    for ours, wanted, count in [
        (OPS.relu(x), F.relu(x), 1),
        (OPS.max_pool2x2(x)[0], F.max_pool2d(x, 2), 1),
        (OPS.channel_sum(x), x.double().sum((0, 2, 3)), terms),
        (OPS.dropout(x, 0.0, 1, 1), x, 1),
        (
            pco.functional.batch_norm(x, None, None, training=True),
            F.batch_norm(x, None, None, training=True),
            400,  # 1/√ε of it
        ),
    ]:
        assert (ours.double() - wanted.double()).abs().max() <= count * SMALLEST


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_optimisers_on_denormals(name, isa):
    """Adam's second moments of small gradients are denormal: the steps are torch's all the same."""
    results = []
    for module in (torch.optim, pco.optimizers):
        p = torch.nn.Parameter(torch.linspace(-1, 1, 100))
        optimizer = getattr(module, name)([p], lr=0.1)
        for step in range(3):
            p.grad = torch.linspace(-1, 1, 100) * 1e-19 * (step + 1)
            optimizer.step()
        results.append(p.detach())
    torch.testing.assert_close(*results)
