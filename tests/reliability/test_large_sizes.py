"""Index arithmetic beyond 2³¹ elements, and sizes that no memory has.

Most of it costs no memory: untouched pages of a new tensor are all the one page of zeros, so a kernel
that reads billions of elements and writes few can be run; `--large` adds those that write as many
(some 20 GB).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import pyconvopt as pco
from pyconvopt import _C
from pyconvopt.plans import conv_plan

from ..cases import ConvCase
from ..test_kernels_conv import geometry, kernels_for, make_arrays, to_torch

OPS = torch.ops.pyconvopt
BEYOND = 1 << 31


def zeros(*shape):
    """Zeros that take memory only where they are written; NHWC seen as channels_last NCHW if 4-D."""
    array = torch.from_numpy(np.zeros(shape, np.float32))
    return array.permute(0, 3, 1, 2) if len(shape) == 4 else array


@pytest.mark.parametrize("kernel", ["pixel", "direct", "depthwise"])
def test_convolution_finds_an_image_behind_two_billion_elements(kernel):
    channels, groups = {"pixel": (4, 1), "direct": (64, 1), "depthwise": (64, 64)}[kernel]
    side = 128
    images = BEYOND // (side * side * channels) + 1
    x = zeros(images, side, side, channels)
    image = torch.randn(channels, side, side)
    x[-1] = image
    assert x.numel() > BEYOND
    weight = torch.randn(64, channels // groups, 3, 3)
    hyper = (125, 125, 0, 0, 1, 1, groups)
    plan = _C.choose_conv("forward", *x.shape, 64, (3, 3), (125, 125), (0, 0), (1, 1), groups)
    assert plan[0] == kernel
    y = OPS.conv2d(x, weight, None, *hyper, False)
    wanted = F.conv2d(image[None], weight, None, 125, 0, 1, groups)
    torch.testing.assert_close(y[-1:], wanted, rtol=1e-4, atol=1e-4)
    assert not y[:-1].any()

    g = torch.zeros_like(y)
    g[-1] = torch.randn(64, *y.shape[2:])
    dw = OPS.conv2d_weight_gradient(x, g, weight, *hyper)
    wanted = torch.nn.grad.conv2d_weight(image[None], weight.shape, g[-1:], 125, 0, 1, groups)
    torch.testing.assert_close(dw, wanted, rtol=1e-4, atol=1e-4)


@pytest.fixture
def large(request):
    if not request.config.getoption("--large"):
        pytest.skip("writes some 20 GB: pytest --large")


def test_elementwise_operators_beyond_two_billion_elements(large):
    rows = BEYOND // 64 + 8
    x = zeros(rows, 64)
    x[-1] = torch.arange(64) - 32.0
    total = OPS.channel_sum(x)
    assert torch.equal(total, x[-1])
    for y, wanted in [
        (lambda: OPS.relu(x), x[-1].relu()),
        (lambda: OPS.dropout(x, 0.5, 3, 4), None),
    ]:
        last = y()[-1].clone()
        if wanted is None:
            first = (rows - 1) * 64
            wanted = x[-1] * torch.tensor(
                [_C.dropout_multiplier(0.5, 3, 4, first + i) for i in range(64)]
            )
        assert torch.equal(last, wanted)


def test_pooling_beyond_two_billion_elements(large):
    side = 256
    images = BEYOND // (side * side * 16) + 1
    x = zeros(images, side, side, 16)
    x[-1] = torch.randn(16, side, side)
    y, argmax = OPS.max_pool2x2(x)
    assert torch.equal(y[-1:], F.max_pool2d(x[-1:], 2)) and not y[:-1].any()
    del x
    dx, _ = OPS.max_pool2x2_backward(y, argmax, side, side, False)
    assert torch.equal(F.max_pool2d(dx[-1:].abs(), 2), y[-1:].abs())


HUGE = (1 << 31) - 1


@pytest.mark.parametrize("pass_", ["forward", "data_gradient", "weight_gradient"])
def test_choice_of_kernels_for_sizes_of_the_future(pass_):
    """The questions kernels ask of shapes do not overflow where the shape itself is far beyond memory."""
    for shape in [(1, 3, 1 << 20, 1 << 20), (1 << 31, 64, 1 << 10, 1 << 10), (1, 1 << 31, 4, 4)]:
        for outputs in (16, 1 << 20):
            name, _ = _C.choose_conv(pass_, *shape, outputs, (3, 3), (1, 1), (1, 1), (1, 1), 1)
            assert name in ("winograd_f4x3", "winograd_f4x3_scatter", "direct", "reference")


@pytest.mark.parametrize(
    ("stride", "padding", "dilation"),
    [
        (HUGE, HUGE, 1),
        (1 << 20, 1 << 20, 1),
        (1 << 20, 1 << 20, 1 << 20),
        (HUGE, 0, 1),
        (HUGE, 1, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("channels", [3, 16])
def test_small_results_of_large_steps_need_no_large_memory(
    channels, stride, padding, dilation, isa
):
    """A padded copy of the image would be terabytes; no kernel that makes one takes the problem.

    (torch 2.13's own backward ends the process for some of these; the plain loops are the measure.)
    """
    case = ConvCase(
        "large steps", 2, channels, 6, 6, 16,
        stride=(stride, stride), padding=(padding, padding), dilation=(dilation, dilation),
    )  # fmt: skip
    x, w, b, g = make_arrays(case)

    def passes(kernel):
        yield _C.conv_forward(x, w, b, *geometry(case), False, False, kernel("forward"))
        yield _C.conv_data_gradient(g, w, (6, 6), *geometry(case), kernel("data_gradient"))
        yield _C.conv_weight_gradient(x, g, (3, 3), *geometry(case), kernel("weight_gradient"))

    for ours, wanted in zip(passes(lambda _: ""), passes(lambda _: "reference"), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4)
    assert "pixel" not in kernels_for(case, "forward") or padding <= 1
    y = pco.functional.conv2d(
        to_torch(x).float(), to_torch(w).float(), None, stride, padding, dilation
    )
    wanted = F.conv2d(to_torch(x), to_torch(w), None, stride, padding, dilation)
    torch.testing.assert_close(y.double(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [1 << 31, 1 << 40, (1 << 63) - 1])
@pytest.mark.parametrize("name", ["stride", "padding", "dilation"])
def test_steps_that_would_overflow_are_torchs_to_judge_and_refused_by_the_operators(name, size):
    values = {"stride": 1, "padding": 0, "dilation": 1} | {name: size}
    pairs = {key: (value, value) for key, value in values.items()}
    assert conv_plan((1, 16, 5, 5), (16, 16, 3, 3), *pairs.values(), 1) is None
    x = torch.ones(1, 16, 5, 5).contiguous(memory_format=torch.channels_last)
    hyper = [value for value in values.values() for _ in range(2)]
    with pytest.raises(RuntimeError, match="at most 2147483647"):
        OPS.conv2d(x, torch.ones(16, 16, 3, 3), None, *hyper, 1, False)
    array = np.ones((1, 5, 5, 16), np.float32)
    with pytest.raises(ValueError, match=f"at most 2147483647, got {size}"):
        weight = np.ones((16, 3, 3, 16), np.float32)
        _C.conv_forward(array, weight, None, *pairs.values(), 1, False, False)
