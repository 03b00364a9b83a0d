"""The moments that a convolution's tiles tell, beside float64; and batch norm from them."""

from __future__ import annotations

import ctypes
import itertools

import pytest
import torch

from tests.cases import ConvCase
from tests.cuda_emulation.maps import BOUNDS, LAYOUTS, TYPES, assert_close, image, shape_of, unset
from tests.cuda_emulation.test_conv import SMALL, TENSOR_CORES, fields_of

ROWS = 64  # of a chunk, as api.h states
DENSE = [c for c in SMALL if not c.groups == c.channels == c.out_channels]
TAILS = ConvCase("tails_of_rows_and_channels", 3, 5, 7, 9, 70, stride=(2, 1), padding=(1, 0))
GROUPS = ConvCase("a_tile_and_a_tail_a_group", 2, 6, 9, 8, 132, groups=2)


def convolution(library, case, layout, math="float32", dtype=torch.float32, mean=0.0, ask=True):
    """(output, means and Σ(x − mean)² of the chunks); without asking: (output, none)."""
    torch.manual_seed(1)
    x = image((case.batch, case.channels, case.height, case.width), layout, dtype)
    weight = image((case.out_channels, case.channels // case.groups, *case.kernel), layout)
    weight /= weight[0].numel() ** 0.5  # a deviation near 1
    y = unset((case.batch, case.out_channels, *case.out_size), layout, dtype)
    rows = y[:, 0].numel()
    moments = torch.full((2, -(-rows // ROWS), case.out_channels), float("nan"))
    library.run(
        "conv_forward",
        shape={**fields_of(case, x, weight, layout), "math": TENSOR_CORES[math]},
        input=x, weight=weight, bias=torch.randn(case.out_channels) / 8 + mean, output=y,
        **({"moments": moments} if ask else {}),
    )  # fmt: skip
    return y, moments if ask else None


def chunks_of(y):
    """The rows of each chunk in float64, (rows, channels)."""
    return y.double().permute(0, 2, 3, 1).reshape(-1, y.shape[1]).split(ROWS)


def assert_moments(y, moments):
    """Means within 1e-6 of the largest value, squares within 1e-5 and what such a mean adds to them."""
    largest = y.double().abs().max()
    for rows, mean, squares in zip(chunks_of(y), *moments.double(), strict=True):
        wanted = (rows - rows.mean(0)).square().sum(0)
        assert ((mean - rows.mean(0)).abs() <= 1e-6 * largest).all()
        bound = 1e-5 * wanted + len(rows) * (1e-6 * largest) ** 2
        assert ((squares - wanted).abs() <= bound).all()


@pytest.mark.parametrize("case", [*DENSE, TAILS, GROUPS], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_moments_of_every_case(cuda, layout, case):
    """Every access is checked; the output has the bits that it has without them."""
    y, moments = convolution(cuda, case, layout)
    assert_moments(y, moments)
    assert torch.equal(convolution(cuda, case, layout, ask=False)[0], y)


@pytest.mark.parametrize(
    ("math", "dtype"),
    list(itertools.product(TENSOR_CORES, TYPES)),
    ids=lambda v: str(v).split(".")[-1],
)
@pytest.mark.parametrize("case", [TAILS, GROUPS], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_moments_are_those_of_the_stored_values(cuda, layout, case, math, dtype):
    """Rounded to the map's type, in every arithmetic, without a bank conflict."""
    with cuda.tracing() as counted:
        y, moments = convolution(cuda, case, layout, math, dtype)
    assert_moments(y, moments)
    assert counted["bank_conflicts"] == 0


@pytest.mark.parametrize("math", TENSOR_CORES)
def test_mean_large_against_the_deviation(cuda, math):
    """Σx² − (Σx)² / n would have no digit left: 64 · 10⁶ of which 64 are wanted."""
    y, moments = convolution(cuda, TAILS, "nhwc", math, mean=1000.0)
    assert y.mean() > 990 and 0.5 < y.std(dim=(0, 2, 3)).mean() < 2
    for rows, squares in zip(chunks_of(y), moments[1], strict=True):
        wanted = (rows - rows.mean(0)).square().sum(0)
        assert ((squares - wanted).abs() <= 1e-5 * wanted).all()


@pytest.mark.parametrize("math", TENSOR_CORES)
def test_same_bits_in_any_order_of_warps_and_blocks(cuda, math):
    seen = []
    for seed in range(3):
        cuda.c.emulation_seed(seed)
        seen.append(convolution(cuda, GROUPS, "nchw", math))
    assert all(torch.equal(a, b) for other in seen[1:] for a, b in zip(seen[0], other, strict=True))


def normalized(library, y, layout, moments=None):
    """Output, saved mean, saved invstd and the running statistics of batch norm with ReLU."""
    torch.manual_seed(2)
    c = y.shape[1]
    output, saved = unset(y.shape, layout, y.dtype), [torch.full((c,), torch.nan) for _ in range(2)]
    running = torch.randn(c), torch.rand(c) + 0.5
    library.run(
        "batch_norm_forward",
        shape=shape_of(y, layout), input=y, weight=torch.randn(c), bias=torch.randn(c), training=1, relu=1,
        running_mean=running[0], running_variance=running[1], momentum=0.1, epsilon=1e-5,
        output=output, saved_mean=saved[0], saved_invstd=saved[1],
        **({} if moments is None else {"moments": moments, "moment_rows": ROWS}),
    )  # fmt: skip
    return output, *saved, *running


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("mean", [0.0, 1000.0])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_batch_norm_from_moments_is_that_from_the_map(cuda, layout, mean, dtype):
    """Output, saved and running statistics: within 2e-6, and the rounding of the means to float32."""
    if mean and dtype is not torch.float32:
        mean = 10.0  # beyond it the type has no digits for the deviation
    bound = 2e-6 + mean * 2**-24  # of a deviation near 1
    y, moments = convolution(cuda, TAILS, layout, dtype=dtype, mean=mean)
    ours, theirs = normalized(cuda, y, layout, moments), normalized(cuda, y, layout)
    rows = torch.cat(chunks_of(y))
    assert_close(ours[1], rows.mean(0), 1e-6)
    assert_close(ours[2], (rows.var(0, correction=0) + 1e-5).rsqrt(), bound)
    for statistics, of_map in zip(ours[1:], theirs[1:], strict=True):
        assert_close(statistics, of_map, bound)
    assert_close(ours[0], theirs[0], max(BOUNDS[dtype], 4 * bound))


def test_batch_norm_from_many_chunks(fast_cuda):
    """More chunks than a channel has threads, of other sizes than a convolution's."""
    x = image((7, 9, 40, 31), "nhwc", scale=2, shift=3)
    rows = torch.cat(chunks_of(x))
    wanted = normalized(fast_cuda, x, "nhwc")
    for each in (1, 100, len(rows)):
        chunks = rows.split(each)
        moments = torch.stack([
            torch.stack([c.mean(0) for c in chunks]),
            torch.stack([(c - c.mean(0)).square().sum(0) for c in chunks]),
        ]).float()  # fmt: skip
        c = x.shape[1]
        saved = torch.full((2, c), torch.nan)
        fast_cuda.run(
            "batch_norm_forward", shape=shape_of(x, "nhwc"), input=x, training=1, epsilon=1e-5,
            output=unset(x.shape, "nhwc"), saved_mean=saved[0], saved_invstd=saved[1],
            moments=moments, moment_rows=each,
        )  # fmt: skip
        assert_close(saved[0], wanted[1], 1e-6)
        assert_close(saved[1], wanted[2], 1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_batch_norm_then_reads_the_map_once(cuda, layout):
    case = ConvCase("whole_tiles", 4, 8, 18, 18, 64)
    y, moments = convolution(cuda, case, layout)
    with cuda.tracing(least_bytes=y.numel() * 4) as counted:
        normalized(cuda, y, layout, moments)
    assert counted["asked"] == counted["sectors"] * 32 == 2 * y.numel() * 4
    assert counted["bank_conflicts"] == 0


def floats(library, case, layout="nhwc", **change):
    """How many floats of moments a convolution has."""
    x = image((case.batch, case.channels, case.height, case.width), layout)
    weight = image((case.out_channels, case.channels // case.groups, *case.kernel), layout)
    shape = {**fields_of(case, x, weight, layout), **change}
    problem = library.structure("PyconvoptConvForward", {"shape": shape})
    ask = library.c.pyconvopt_cuda_conv_forward_moments
    ask.restype = ctypes.c_int64
    return ask(ctypes.byref(problem))


def test_number_of_floats(cuda):
    assert floats(cuda, TAILS) == 2 * 2 * 70  # 3 · 4 · 7 rows are 2 chunks
    assert floats(cuda, ConvCase("whole", 2, 4, 10, 10, 8)) == 2 * 2 * 8  # 128 rows
    assert floats(cuda, ConvCase("empty", 0, 4, 10, 10, 8)) == 0
    assert floats(cuda, ConvCase("depthwise", 2, 4, 10, 10, 4, groups=4)) == 0
    assert floats(cuda, TAILS, stride_height=0) == 0  # refused


@pytest.mark.parametrize("wrong", [{"relu": 1}, {"depthwise": True}], ids=str)
def test_convolution_refuses(cuda, wrong):
    groups = 4 if wrong.pop("depthwise", False) else 1
    case = ConvCase("small", 1, 4, 5, 5, 4, groups=groups)
    x, weight = image((1, 4, 5, 5), "nhwc"), image((4, 4 // groups, 3, 3), "nhwc")
    shape, moments = fields_of(case, x, weight, "nhwc"), torch.zeros(8)
    y = unset((1, 4, 3, 3), "nhwc")
    fields = {"input": x, "weight": weight, "output": y, "moments": moments, **wrong}
    with pytest.raises(RuntimeError, match="out of its range"):
        cuda.run("conv_forward", shape=shape, **fields)


@pytest.mark.parametrize("wrong", [{"training": 0}, {"moment_rows": 0}], ids=str)
def test_batch_norm_refuses(cuda, wrong):
    x, vector = image((1, 4, 5, 5), "nhwc"), torch.zeros(4)
    fields = {"training": 1, "moment_rows": ROWS, "moments": torch.zeros(8), **wrong}
    with pytest.raises(RuntimeError, match="out of its range"):
        cuda.run(
            "batch_norm_forward", shape=shape_of(x, "nhwc"), input=x, output=x.clone(),
            saved_mean=vector, saved_invstd=vector.clone(), **fields,
        )  # fmt: skip
