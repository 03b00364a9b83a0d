"""The convolution kernels alone, on numpy arrays, against torch in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pyconvopt as pco
from pyconvopt import _C

from .cases import CONV_CASES, ConvCase

FORWARD_BOUND, GRADIENT_BOUND = 2e-5, 1e-4  # of the result's RMS


def make_arrays(case: ConvCase, seed: int = 0):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    x = draw(case.batch, case.height, case.width, case.channels)
    w = draw(case.out_channels, *case.kernel, case.channels // case.groups) * 0.1
    g = draw(case.batch, *case.out_size, case.out_channels)
    return x, w, draw(case.out_channels), g


def to_torch(a: np.ndarray) -> torch.Tensor:
    """NHWC or KRSC to torch's order, in float64."""
    return torch.from_numpy(a).permute(0, 3, 1, 2).double()


def to_numpy(t: torch.Tensor) -> np.ndarray:
    return t.detach().permute(0, 2, 3, 1).numpy()


def expected(case: ConvCase, x, w, b, g):
    """Output (with bias), data gradient and weight gradient in float64."""
    xt, wt = to_torch(x).requires_grad_(), to_torch(w).requires_grad_()
    y = torch.conv2d(
        xt,
        wt,
        torch.from_numpy(b).double(),
        case.stride,
        case.padding,
        case.dilation,
        case.groups,
    )
    y.backward(to_torch(g))
    return to_numpy(y), to_numpy(xt.grad), to_numpy(wt.grad)


def assert_near(result, wanted, bound, noise=0.0):
    """Within `bound` of the RMS; `noise`: so much, whatever the RMS, is rounding of what cancels."""
    scale = np.sqrt(np.mean(np.square(wanted))) or 1.0
    error = np.abs(result - wanted).max() / scale
    assert error <= bound + noise / scale, f"max error {error:.2e} of the RMS, allowed {bound:.0e}"


def geometry(case: ConvCase):
    return case.stride, case.padding, case.dilation, case.groups


MOST_FOR_REFERENCE = 50_000_000  # multiplications; its loops take no other way for larger cases


def kernels_for(case: ConvCase, pass_: str) -> list[str]:
    """Every kernel that takes the case, not only the one that would be chosen."""
    problem = {
        "forward": "ConvForward",
        "forward_pool": "ConvForward",
        "forward_moments": "ConvForward",
        "forward_normalized": "ConvForward",
        "data_gradient": "ConvDataGradient",
        "data_gradient_pool": "ConvDataGradient",
        "weight_gradient": "ConvWeightGradient",
        "weight_gradient_normalized": "ConvWeightGradient",
        "weight_gradient_pool": "ConvWeightGradient",
        "gradients": "ConvGradients",
    }[pass_]
    isa = _C.isa()
    names = [k for p, k, of in _C.kernel_names() if p == problem and of == isa]
    usable = []
    for name in names:
        if name == "reference" and (isa != "baseline" or case.macs > MOST_FOR_REFERENCE):
            continue  # the same plain loops on every instruction set: once is enough
        try:
            _C.choose_conv(
                pass_, case.batch, case.channels, case.height, case.width, case.out_channels,
                case.kernel, *geometry(case), kernel=name,
            )  # fmt: skip
        except ValueError:
            continue
        usable.append(name)
    return usable


@pytest.mark.parametrize("case", CONV_CASES, ids=str)
def test_every_pass_of_every_kernel(case, isa):
    x, w, b, g = make_arrays(case)
    y, dx, dw = expected(case, x, w, b, g)
    for kernel in kernels_for(case, "forward"):
        assert_near(
            _C.conv_forward(x, w, b, *geometry(case), False, False, kernel), y, FORWARD_BOUND
        )
        relu = _C.conv_forward(x, w, b, *geometry(case), True, False, kernel)
        assert_near(relu, np.maximum(y, 0), FORWARD_BOUND)
    for kernel in kernels_for(case, "data_gradient"):
        result = _C.conv_data_gradient(g, w, (case.height, case.width), *geometry(case), kernel)
        assert_near(result, dx, FORWARD_BOUND)
    for kernel in kernels_for(case, "weight_gradient"):
        result = _C.conv_weight_gradient(x, g, case.kernel, *geometry(case), kernel)
        assert_near(result, dw, GRADIENT_BOUND)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("case", CONV_CASES, ids=str)
def test_fused_pool(case, relu, isa):
    if min(case.out_size) < 2:
        pytest.skip("no 2x2 window")
    x, w, b, g = make_arrays(case)
    y = to_torch(expected(case, x, w, b, g)[0])
    y = torch.relu(y) if relu else y
    wanted = to_numpy(torch.nn.functional.max_pool2d(y, 2))
    rows, columns = wanted.shape[1:3]
    windows = to_numpy(y)[:, : 2 * rows, : 2 * columns].reshape(-1, rows, 2, columns, 2, y.shape[1])
    windows = windows.transpose(0, 1, 3, 5, 2, 4).reshape(*wanted.shape, 4)
    for kernel in kernels_for(case, "forward_pool"):
        pooled, argmax = _C.conv_forward(x, w, b, *geometry(case), relu, True, kernel)
        assert_near(pooled, wanted, FORWARD_BOUND)
        alive = argmax < 4
        assert np.array_equal(alive, pooled > 0 if relu else np.ones_like(alive))
        at_argmax = np.take_along_axis(windows, np.minimum(argmax, 3)[..., None].astype(int), -1)
        assert_near(at_argmax[..., 0][alive], wanted[alive], FORWARD_BOUND)


@pytest.mark.parametrize("case", CONV_CASES, ids=str)
def test_gradients_of_a_pooled_output(case, isa):
    """The same as spreading the pooled gradient over its windows first; dead windows have none."""
    if min(case.out_size) < 2:
        pytest.skip("no 2x2 window")
    x, w, b, g = make_arrays(case)
    rows, columns = (size // 2 for size in case.out_size)
    rng = np.random.default_rng(1)
    g = np.ascontiguousarray(g[:, :rows, :columns])
    argmax = rng.integers(0, 5, g.shape).astype(np.uint8)
    g[argmax == 4] = np.inf  # must not be read
    spread = np.zeros((case.batch, *case.out_size, case.out_channels), np.float32)
    for i in range(4):
        spread[:, i // 2 : 2 * rows : 2, i % 2 : 2 * columns : 2] = np.where(argmax == i, g, 0)
    _, dx, dw = expected(case, x, w, b, spread)
    for kernel in kernels_for(case, "data_gradient_pool"):
        result = _C.conv_data_gradient(
            g, w, (case.height, case.width), *geometry(case), kernel, argmax
        )
        assert_near(result, dx, FORWARD_BOUND)
    for kernel in kernels_for(case, "weight_gradient_pool"):
        result, bias = _C.conv_weight_gradient(x, g, case.kernel, *geometry(case), kernel, argmax)
        assert_near(result, dw, GRADIENT_BOUND)
        assert_near(bias, spread.sum((0, 1, 2), dtype=np.float64), GRADIENT_BOUND)


def test_every_kernel_has_a_case(isa):
    used = {
        (pass_, kernel)
        for case in CONV_CASES
        for pass_ in ("forward", "data_gradient", "weight_gradient", "gradients")
        for kernel in kernels_for(case, pass_)
    }
    table = {(p, k) for p, k, of in _C.kernel_names() if of == isa and p.startswith("Conv")}
    if isa != "baseline":  # where the plain loops are left out of the tests
        table = {(p, k) for p, k in table if k != "reference"}
    passes = {
        "forward": "ConvForward",
        "data_gradient": "ConvDataGradient",
        "weight_gradient": "ConvWeightGradient",
        "gradients": "ConvGradients",
    }
    assert {(passes[p], k) for p, k in used} == table


def pooled_gradients(case, x, w, g):
    if min(case.out_size) < 2:
        return []
    g = np.ascontiguousarray(g[:, : case.out_size[0] // 2, : case.out_size[1] // 2])
    argmax = (np.arange(g.size) % 5).astype(np.uint8).reshape(g.shape)
    size = (case.height, case.width)
    return [
        _C.conv_data_gradient(g, w, size, *geometry(case), argmax=argmax),
        *_C.conv_weight_gradient(x, g, case.kernel, *geometry(case), argmax=argmax),
    ]


@pytest.mark.parametrize("case", CONV_CASES, ids=str)
def test_thread_count_changes_no_bit(case):
    x, w, b, g = make_arrays(case)
    results = []
    every = [name for name in kernels_for(case, "forward") if name != "reference"]
    for threads in (1, 2, 3, 16):
        torch.set_num_threads(threads)
        results.append(
            [
                *(_C.conv_forward(x, w, b, *geometry(case), True, False, name) for name in every),
                _C.conv_data_gradient(g, w, (case.height, case.width), *geometry(case)),
                _C.conv_weight_gradient(x, g, case.kernel, *geometry(case)),
                *pooled_gradients(case, x, w, g),
            ]
        )
    for other in results[1:]:
        for a, b_ in zip(results[0], other, strict=True):
            assert np.array_equal(a, b_)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_random_shapes(data):
    draw = data.draw
    groups = draw(st.sampled_from([1, 1, 1, 2]))
    kernel = draw(st.sampled_from([(3, 3), (3, 3), (1, 1), (5, 5), (3, 2), (1, 4)]))
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 1)]))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    case = ConvCase(
        "drawn",
        batch=draw(st.sampled_from([1, 2, 3, 4, 24])),
        channels=groups * draw(st.integers(1, 40)),
        height=draw(st.integers(reach[0], 17)),
        width=draw(st.integers(reach[1], 17)),
        out_channels=groups * draw(st.integers(1, 40)),
        kernel=kernel,
        stride=draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 3)])),
        padding=draw(st.sampled_from([(0, 0), (1, 1), (2, 2), (0, 1)])),
        dilation=dilation,
        groups=groups,
    )
    x, w, b, g = make_arrays(case, seed=draw(st.integers(0, 99)))
    y, dx, dw = expected(case, x, w, b, g)
    assert_near(_C.conv_forward(x, w, b, *geometry(case), False, False), y, FORWARD_BOUND * 2)
    result = _C.conv_data_gradient(g, w, (case.height, case.width), *geometry(case))
    assert_near(result, dx, FORWARD_BOUND * 2)
    assert_near(_C.conv_weight_gradient(x, g, case.kernel, *geometry(case)), dw, GRADIENT_BOUND)


@pytest.mark.parametrize(
    ("taps", "stride", "kernel"),
    [
        (3, 1, "winograd_f4x3"),
        (3, 1, "winograd_f2x3"),
        (5, 1, "winograd_f2x5"),
        (3, 2, "winograd_strided"),
    ],
)
def test_error_at_many_channels(taps, stride, kernel):
    """The bound holds where it is tightest: 512 channels, and it is the points' doing."""
    hyper = {"kernel": (taps, taps), "stride": (stride, stride), "padding": (taps // 2, taps // 2)}
    images, size = (16, 16) if stride == 2 else (2, 8)
    case = ConvCase("deep", images, 512, size, size, 64, **hyper)
    x, w, b, g = make_arrays(case)
    y, _, dw = expected(case, x, w, b, g)
    result = _C.conv_forward(x, w, b, *geometry(case), False, False, kernel)
    rms = np.sqrt(np.mean(np.square(result - y)) / np.mean(np.square(y)))
    assert rms < 2.5e-6
    assert_near(result, y, FORWARD_BOUND)
    assert_near(_C.conv_weight_gradient(x, g, case.kernel, *geometry(case)), dw, GRADIENT_BOUND)


@pytest.mark.parametrize(
    ("images", "channels", "size", "kernels"),
    [
        (1, 64, 28, ("winograd_f4x3",) * 3),
        (64, 512, 4, ("winograd_f4x3",) * 3),
        (1, 64, 8, ("winograd_f2x3", "winograd_f2x3", "winograd_f4x3")),
        (1, 64, 4, ("winograd_f2x3", "winograd_f2x3", "winograd_f4x3")),
        (1, 512, 4, ("direct",) * 3),
    ],
)
def test_few_pixels_are_not_worth_large_tiles(images, channels, size, kernels):
    problem = (images, channels, size, size, channels, (3, 3), (1, 1), (1, 1), (1, 1), 1)
    passes = ("forward", "data_gradient", "weight_gradient")
    assert tuple(_C.choose_conv(name, *problem)[0] for name in passes) == kernels


def test_nan_and_inf_reach_the_outputs_they_touch(isa):
    case = next(c for c in CONV_CASES if c.name == "same_padding")
    x, w, b, _ = make_arrays(case)
    x[0, 5, 5, 3] = np.nan
    y = _C.conv_forward(x, w, b, *geometry(case), True, False)
    assert np.isnan(y[0, 4:7, 4:7]).all()
    assert not np.isnan(y[1]).any()


def test_winograd_can_be_turned_off():
    case = next(c for c in CONV_CASES if c.name == "whole_tiles")
    assert "winograd_f4x3" in kernels_for(case, "forward")
    with pco.settings(winograd=False):
        assert "winograd_f4x3" not in kernels_for(case, "forward")
    assert "winograd_f4x3" in kernels_for(case, "forward")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stride": (0, 1)}, "stride must be positive, got 0"),
        ({"groups": 3}, "groups must divide"),
        ({"padding": (-20, 0)}, r"padding must not be negative, got \(-20, 0\)"),
        ({"dilation": (5, 1)}, "larger than the padded input"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1} | change
    x, w = np.zeros((1, 8, 8, 16), np.float32), np.zeros((16, 3, 3, 16), np.float32)
    with pytest.raises(ValueError, match=message):
        _C.conv_forward(x, w, None, **arguments, relu=False, pool=False)


def test_unknown_instruction_set_is_refused():
    with pytest.raises(ValueError, match="'sse9' is not usable here; usable: reference, baseline"):
        pco.settings(isa="sse9")
