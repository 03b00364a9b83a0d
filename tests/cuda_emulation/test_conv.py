"""Convolution on the emulated GPU beside torch in float64, over the one table of cases."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.cases import CONV_CASES, ConvCase
from tests.cuda_emulation.maps import LAYOUTS, TYPES, assert_close, image, shape_of, unset

# Every access is checked up to this many multiplications; up to a hundred times as many run unchecked.
CHECKED = 1_000_000
SMALL = [c for c in CONV_CASES if c.macs <= CHECKED]
LARGE = [c for c in CONV_CASES if CHECKED < c.macs <= 30 * CHECKED]
TENSOR_CORES = {"float32": 0, "tf32": 1, "bfloat16": 2}
HALF = [c for c in SMALL if c.name in ("channel_tails", "grouped", "depthwise_5x5", "strided")]


def fields_of(case, x, weight, layout):
    """A PyconvoptConv."""
    pairs = {
        "kernel": case.kernel,
        "stride": case.stride,
        "padding": case.padding,
        "dilation": case.dilation,
    }
    axes = {
        f"{k}_{axis}": v[i] for k, v in pairs.items() for i, axis in enumerate(("height", "width"))
    }
    strides = zip(("out_channel", "in_channel", "row", "column"), weight.stride(), strict=True)
    return {
        "input": shape_of(x, layout),
        "out_channels": case.out_channels,
        "groups": case.groups,
        **axes,
        **{f"weight_{k}": v for k, v in strides},
    }


def check_three_passes(library, case, layout, dtype=torch.float32, bias=True, relu=True):
    x = image((case.batch, case.channels, case.height, case.width), layout, dtype)
    weight = image((case.out_channels, case.channels // case.groups, *case.kernel), layout)
    b = torch.randn(case.out_channels) if bias else None
    x64, weight64 = x.double().requires_grad_(), weight.double().requires_grad_()
    wanted = F.conv2d(x64, weight64, None, case.stride, case.padding, case.dilation, case.groups)
    gradient = image(wanted.shape, layout, dtype)
    wanted.backward(gradient.double())
    wanted = wanted.detach()
    if bias:
        wanted = wanted + b.double()[:, None, None]
    if relu:
        wanted = wanted.relu()

    shape = fields_of(case, x, weight, layout)
    y, dx = unset(wanted.shape, layout, dtype), unset(x.shape, layout, dtype)
    dw = torch.full_like(weight, float("nan"))
    optional = {"bias": b} if bias else {}
    library.run(
        "conv_forward", shape=shape, input=x, weight=weight, relu=relu, output=y, **optional
    )
    assert_close(y, wanted)
    library.run(
        "conv_data_gradient",
        shape=shape,
        output_gradient=gradient,
        weight=weight,
        input_gradient=dx,
    )
    assert_close(dx, x64.grad)
    fields = {"input": x, "output_gradient": gradient, "weight_gradient": dw}
    library.run("conv_weight_gradient", shape=shape, **fields)
    assert_close(dw, weight64.grad, 1e-5)


@pytest.mark.parametrize("case", SMALL, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_access_checked(cuda, layout, case):
    check_three_passes(cuda, case, layout)


@pytest.mark.parametrize("case", LARGE, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_larger_maps(fast_cuda, layout, case):
    check_three_passes(fast_cuda, case, layout)


@pytest.mark.parametrize("case", HALF, ids=str)
@pytest.mark.parametrize("dtype", list(TYPES)[1:], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_half_precision_maps(fast_cuda, layout, dtype, case):
    check_three_passes(fast_cuda, case, layout, dtype)


@pytest.mark.parametrize(
    "case", [c for c in SMALL if c.name in ("pointwise", "depthwise")], ids=str
)
def test_without_bias_and_relu(cuda, case):
    check_three_passes(cuda, case, "nhwc", bias=False, relu=False)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_bank_conflicts(cuda, layout):
    case = ConvCase("two_tiles", 2, 40, 6, 6, 70, padding=(1, 1))
    with cuda.tracing() as counted:
        check_three_passes(cuda, case, layout)
    assert counted["bank_conflicts"] == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weight_gradient_of_many_splits_is_the_same_in_any_order(fast_cuda, layout):
    case = ConvCase("many_pixels", 3, 8, 40, 40, 8, padding=(1, 1))
    x, gradient = (image((3, 8, 40, 40), layout) for _ in range(2))
    weight = image((8, 8, 3, 3), layout)
    seen = []
    for seed in range(3):
        fast_cuda.c.emulation_seed(seed)
        dw = torch.full_like(weight, float("nan"))
        fields = {"input": x, "output_gradient": gradient, "weight_gradient": dw}
        fast_cuda.run("conv_weight_gradient", shape=fields_of(case, x, weight, layout), **fields)
        seen.append(dw)
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"stride_height": 0}, "out of its range"),
        ({"groups": 3}, "out of its range"),
        ({"padding_width": -1}, "out of its range"),
        ({"kernel_height": 40}, "out of its range"),
        ({"dilation_width": 2**20}, "must each be below"),
    ],
    ids=str,
)
def test_refuses(cuda, change, told):
    case = ConvCase("small", 1, 4, 5, 5, 4)
    x, weight = image((1, 4, 5, 5), "nhwc"), image((4, 4, 3, 3), "nhwc")
    shape = {**fields_of(case, x, weight, "nhwc"), **change}
    for entry in ("conv_forward", "conv_data_gradient", "conv_weight_gradient"):
        with pytest.raises(RuntimeError, match=told):
            cuda.run(entry, shape=shape)


def test_empty_batch(cuda):
    for groups in (1, 4):
        case = ConvCase("empty", 0, 4, 5, 5, 4, groups=groups)
        x, weight = torch.empty(0, 4, 5, 5), image((4, 4 // groups, 3, 3), "nhwc")
        shape = fields_of(case, x, weight, "nhwc")
        cuda.run("conv_forward", shape=shape)
        cuda.run("conv_data_gradient", shape=shape)
        dw = torch.full_like(weight, float("nan"))
        cuda.run("conv_weight_gradient", shape=shape, weight_gradient=dw)
        assert torch.equal(dw, torch.zeros_like(dw))


# --- tensor cores ---------------------------------------------------------------------------------


def rounded(x, math):
    """What a factor is rounded to before it is multiplied."""
    if math == "bfloat16":
        return x.to(torch.bfloat16).double()
    bits = x.float().contiguous().view(torch.int32)  # ties away from zero
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32).double()


def tensor_core_passes(library, case, layout, math, dtype=torch.float32):
    """(what the three passes give, what they should, the sums of the terms' absolute values)."""
    x = image((case.batch, case.channels, case.height, case.width), layout, dtype)
    weight = image((case.out_channels, case.channels // case.groups, *case.kernel), layout)
    hyper = (case.stride, case.padding, case.dilation, case.groups)
    shape_y = F.conv2d(x.double(), weight.double(), None, *hyper).shape
    gradient = image(shape_y, layout, dtype)
    shape = {**fields_of(case, x, weight, layout), "math": TENSOR_CORES[math]}
    y, dx = unset(shape_y, layout, dtype), unset(x.shape, layout, dtype)
    dw = torch.full_like(weight, float("nan"))
    library.run("conv_forward", shape=shape, input=x, weight=weight, output=y)
    fields = {"output_gradient": gradient, "weight": weight, "input_gradient": dx}
    library.run("conv_data_gradient", shape=shape, **fields)
    fields = {"input": x, "output_gradient": gradient, "weight_gradient": dw}
    library.run("conv_weight_gradient", shape=shape, **fields)

    def passes(change):
        a, b, g = (change(t) for t in (x, weight, gradient))
        a, b = a.requires_grad_(), b.requires_grad_()
        output = F.conv2d(a, b, None, *hyper)
        return output.detach(), *torch.autograd.grad(output, (a, b), g)

    exact, inside = passes(lambda t: t.double()), passes(lambda t: rounded(t, math))
    return (y, dx, dw), exact, inside, passes(lambda t: t.double().abs())


@pytest.mark.parametrize("case", [c for c in SMALL if c.groups < c.channels], ids=str)
@pytest.mark.parametrize("math", ["tf32", "bfloat16"])
def test_tensor_cores_multiply_the_rounded_factors(fast_cuda, math, case):
    layout = "nhwc" if len(case.name) % 2 else "nchw"
    ours, exact, inside, absolute = tensor_core_passes(fast_cuda, case, layout, math)
    bound = {"tf32": 2**-10, "bfloat16": 2**-7}[math]  # as api.h states
    for got, wanted, of_rounded, terms in zip(ours, exact, inside, absolute, strict=True):
        assert_close(got, of_rounded, 1e-5)
        assert ((got.double() - wanted).abs() <= bound * terms + 1e-6).all()


@pytest.mark.parametrize("case", HALF[:2], ids=str)
@pytest.mark.parametrize("dtype", list(TYPES)[1:], ids=str)
@pytest.mark.parametrize("math", ["tf32", "bfloat16"])
def test_tensor_cores_of_half_precision_maps(fast_cuda, math, dtype, case):
    ours, _, inside, _ = tensor_core_passes(fast_cuda, case, "nhwc", math, dtype)
    for got, of_rounded in zip(ours, inside, strict=True):
        assert_close(got, of_rounded)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("math", ["tf32", "bfloat16"])
def test_tensor_cores_with_every_access_checked(cuda, math, layout):
    case = ConvCase("two_tiles", 1, 20, 9, 9, 70, padding=(1, 1))
    with cuda.tracing() as counted:
        ours, _, inside, _ = tensor_core_passes(cuda, case, layout, math)
    for got, of_rounded in zip(ours, inside, strict=True):
        assert_close(got, of_rounded, 1e-5)
    assert counted["bank_conflicts"] == 0


def test_refuses_unknown_arithmetic(cuda):
    case = ConvCase("small", 1, 4, 5, 5, 4)
    x, weight = image((1, 4, 5, 5), "nhwc"), image((4, 4, 3, 3), "nhwc")
    with pytest.raises(RuntimeError, match="out of its range"):
        cuda.run("conv_forward", shape={**fields_of(case, x, weight, "nhwc"), "math": 3})
