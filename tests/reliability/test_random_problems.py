"""Problems that nobody thought of: drawn at random for as long as `--hypothesis-seconds` says."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import pyconvopt as pco
import pyconvopt.ops  # registers the shapes for tracing
from pyconvopt import _C

from ..cases import ConvCase
from ..test_kernels_conv import (
    FORWARD_BOUND,
    GRADIENT_BOUND,
    assert_near,
    expected,
    geometry,
    kernels_for,
    make_arrays,
)

OPS = torch.ops.pyconvopt


@pytest.fixture
def draw_problems(request):
    """Runs a check on one drawn problem after another; a failing one is made small and shown."""
    end = time.monotonic() + request.config.getoption("--hypothesis-seconds")

    def run(check):
        number = 0
        while number == 0 or time.monotonic() < end:
            number += 1
            some = settings(
                max_examples=20,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            some(seed(number)(given(st.data())(check)))()

    return run


@pytest.mark.timeout(0)
def test_convolutions(draw_problems):
    draw_problems(check_convolution)


def check_convolution(data: st.DataObject) -> None:
    case = draw_convolution(data.draw)
    isa = data.draw(st.sampled_from(_C.available_isas()))
    x, w, b, g = make_arrays(case, seed=data.draw(st.integers(0, 99)))
    y, dx, dw = expected(case, x, w, b, g)
    size = case.height, case.width
    with pco.settings(isa=isa):
        for kernel in kernels_for(case, "forward"):
            result = _C.conv_forward(x, w, b, *geometry(case), False, False, kernel)
            assert_near(result, y, 2 * FORWARD_BOUND)
        for kernel in kernels_for(case, "forward_moments"):
            result, moments = _C.conv_moments(x, w, b, *geometry(case), kernel)
            assert_near(result, y, 2 * FORWARD_BOUND)
            rows = moments[:, -1:].astype(np.float64)
            assert rows.sum() == y.size / case.out_channels
            mean = (moments[:, : case.out_channels] * rows).sum(0) / rows.sum()
            assert_near(mean, y.mean((0, 1, 2)), 1e-3 + 4 * FORWARD_BOUND)
        for kernel in kernels_for(case, "data_gradient"):
            result = _C.conv_data_gradient(g, w, size, *geometry(case), kernel)
            assert_near(result, dx, 2 * FORWARD_BOUND)
        for kernel in kernels_for(case, "weight_gradient"):
            result = _C.conv_weight_gradient(x, g, case.kernel, *geometry(case), kernel)
            assert_near(result, dw, GRADIENT_BOUND)


def draw_convolution(draw) -> ConvCase:
    """Any convolution of some million multiplications at most, often one that a kernel is made for."""
    kernel = draw(st.sampled_from([(3, 3), (1, 1), (5, 5)]) | st.tuples(*[st.integers(1, 7)] * 2))
    dilation = draw(st.just((1, 1)) | st.tuples(*[st.integers(1, 3)] * 2))
    stride = draw(st.just((1, 1)) | st.tuples(*[st.integers(1, 3)] * 2))
    padding = draw(st.just((kernel[0] // 2, kernel[1] // 2)) | st.tuples(*[st.integers(0, 4)] * 2))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    height, width = (
        draw(st.integers(max(1, r - 2 * p), 24)) for r, p in zip(reach, padding, strict=True)
    )
    manner = draw(st.sampled_from(["dense", "dense", "first", "grouped", "depthwise"]))
    if manner == "depthwise":
        groups = draw(st.integers(2, 70))
        channels = out_channels = groups
    else:
        groups = draw(st.integers(2, 3)) if manner == "grouped" else 1
        channels = groups * draw(st.integers(1, 4) if manner == "first" else st.integers(1, 72))
        out_channels = groups * draw(st.integers(1, 72))
    return ConvCase(
        "drawn", draw(st.integers(1, 4)), channels, height, width, out_channels, kernel=kernel,
        stride=stride, padding=padding, dilation=dilation, groups=groups,
    )  # fmt: skip


@pytest.mark.timeout(0)
def test_batch_norms(draw_problems):
    draw_problems(check_batch_norm)


def check_batch_norm(data: st.DataObject) -> None:
    """Forward and backward of each instruction set beside the plain loops'."""
    draw = data.draw
    n, c, h, w = (draw(st.integers(1, most)) for most in (5, 150, 20, 20))
    training, pool = draw(st.booleans()), draw(st.booleans()) and min(h, w) > 1
    residual_too = draw(st.booleans()) and not pool
    if training and n * h * w < 16:
        return  # of two rows the input's gradient is nothing but what cancels
    torch.manual_seed(draw(st.integers(0, 99)))

    def image(*shape):
        return torch.randn(shape).contiguous(memory_format=torch.channels_last)

    x, weight, bias = image(n, c, h, w) * 2 + 3, torch.randn(c), torch.randn(c)
    residual = image(n, c, h, w) if residual_too else None
    g = image(n, c, h // 2, w // 2) if pool else image(n, c, h, w)
    results = []
    for isa in ("reference", *_C.available_isas()):
        with pco.settings(isa=isa):
            mean, var = torch.zeros(c), torch.ones(c)
            y, argmax, *saved = OPS.batch_norm_forward(
                x, weight, bias, residual, mean, var, training, 0.1, 1e-5, 0, pool, 0.0, 0, 0
            )
            gradients = OPS.batch_norm_backward(
                g, x, None, argmax if pool else None, weight, *saved, training, 0, pool, 0.0,
                True, residual_too, bias,
            )  # fmt: skip
        results.append([y, mean, var, *saved, *gradients])
    for other in results[1:]:
        for ours, wanted in zip(other, results[0], strict=True):
            if wanted.numel():
                # The sum over one channel may be next to nothing beside its terms, which are about 1.
                noise = 1e-6 * (n * h * w) ** 0.5
                assert_near(ours.double().numpy(), wanted.double().numpy(), 2e-3, noise)
