"""Dropout on the emulated GPU: the very mask of the CPU kernels."""

from __future__ import annotations

import pytest
import torch

from pyconvopt import _C
from tests.cuda_emulation.maps import TYPES, image, memory_format, shape_of, unset

OPS = torch.ops.pyconvopt
# Sizes below, at and beyond groups of 64 elements and blocks of 1024; channels in and out of fours.
SHAPES = [
    (1, 1, 1, 3),
    (2, 3, 5, 7),
    (2, 64, 4, 4),
    (3, 20, 9, 11),
    (1, 1, 1, 1024),
    (5, 17, 16, 16),
]


def drop(library, x, layout, key, whole_channels=False):
    y = unset(x.shape, layout, x.dtype)
    shape = shape_of(x, layout)
    library.run("dropout", shape=shape, input=x, key=key, whole_channels=whole_channels, output=y)
    return y


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_elements_are_the_cpu_kernels(cuda, shape, layout, dtype):
    x = image(shape, layout, dtype)
    key = {"probability": 0.3, "seed": 2**63 + 12345, "offset": 2**40 + 7}
    ours = drop(cuda, x, layout, key)
    # In the order of memory: the CPU operator gets it as one row.
    flat = x.permute(0, 2, 3, 1) if layout == "nhwc" else x
    seed = key["seed"] - 2**64  # torch's integers are signed
    wanted = OPS.dropout(flat.reshape(-1).float(), 0.3, seed, key["offset"]).to(dtype)
    got = (ours.permute(0, 2, 3, 1) if layout == "nhwc" else ours).reshape(-1)
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [*((s, torch.float32) for s in SHAPES), *((SHAPES[1], t) for t in TYPES)],
    ids=str,
)
def test_whole_channels_are_the_cpu_kernels(cuda, shape, dtype, layout):
    x = image(shape, layout, dtype)
    ours = drop(cuda, x, layout, {"probability": 0.4, "seed": 9, "offset": 4}, True)
    mask = [
        [_C.dropout_multiplier(0.4, 9, 4, n * shape[1] + c) for c in range(shape[1])]
        for n in range(shape[0])
    ]
    assert torch.equal(ours, (x.float() * torch.tensor(mask)[:, :, None, None]).to(dtype))


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_extremes_and_nan(cuda, probability):
    x = image((2, 3, 4, 5), "nchw")
    x[0, 0, 0, 0], x[1, 1, 1, 1] = float("nan"), float("inf")
    ours = drop(cuda, x, "nchw", {"probability": probability, "seed": 1, "offset": 1})
    assert torch.equal(ours.nan_to_num(7), (x * (1 - probability)).nan_to_num(7))


def test_misaligned_maps(cuda):
    """A view that starts between vectors: the elements one by one."""
    memory = torch.randn(201)
    x = memory[1:].view(2, 4, 5, 5)
    key = {"probability": 0.5, "seed": 3, "offset": 2}
    assert x.data_ptr() % 16
    assert torch.equal(drop(cuda, x, "nchw", key), drop(cuda, x.clone(), "nchw", key))


def test_ten_million_elements(fast_cuda):
    ones = torch.ones(5, 32, 250, 250).contiguous(memory_format=memory_format("nhwc"))
    ours = drop(fast_cuda, ones, "nhwc", {"probability": 0.5, "seed": 17, "offset": 23})
    assert torch.equal(ours, OPS.dropout(ones, 0.5, 17, 23))


def test_every_byte_once_in_whole_sectors(cuda):
    x = image((2, 64, 8, 8), "nhwc")
    with cuda.tracing() as counted:
        drop(cuda, x, "nhwc", {"probability": 0.5, "seed": 1, "offset": 1})
    assert counted["read"] == counted["written"] == 4 * x.numel()
    assert counted["sectors"] * 32 == counted["asked"] == 8 * x.numel()


def test_a_probability_beyond_one_is_refused(cuda):
    x = image((1, 1, 2, 2), "nchw")
    with pytest.raises(RuntimeError, match="out of its range"):
        drop(cuda, x, "nchw", {"probability": 1.5, "seed": 0, "offset": 0})
