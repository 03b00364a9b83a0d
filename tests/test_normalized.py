"""Convolutions that normalise and activate their input while they read it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyconvopt import _C

from .cases import CONV_CASES
from .test_kernels_conv import (
    FORWARD_BOUND,
    GRADIENT_BOUND,
    assert_near,
    expected,
    geometry,
    kernels_for,
    make_arrays,
)

ACTIVATIONS = (None, "relu", "relu6", "hardswish")
CASES = {case.name: case for case in CONV_CASES}


def make_norm(channels: int, activation: int):
    """Mean, 1/deviation, weight, bias, activation; the bias moves values over both ends of ReLU6."""
    rng = np.random.default_rng(1)
    mean, bias = rng.standard_normal((2, channels)).astype(np.float32)
    invstd, weight = rng.uniform(0.5, 2, (2, channels)).astype(np.float32)
    return mean, invstd, weight, bias + np.float32(2), activation


def normalized(x: np.ndarray, norm) -> np.ndarray:
    """What the batch norm kernel makes of the map."""
    *vectors, activation = norm
    mean, invstd, weight, bias = map(torch.from_numpy, vectors)
    z = torch.from_numpy(x).permute(0, 3, 1, 2)
    y = torch.ops.pyconvopt.batch_norm_again(z, weight, bias, mean, invstd, activation)
    return np.ascontiguousarray(y.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("activation", range(4), ids=map(str, ACTIVATIONS))
@pytest.mark.parametrize("case", CONV_CASES, ids=str)
def test_kernels_equal_those_of_the_stored_map(case, activation, isa):
    x, w, b, g = make_arrays(case)
    norm = make_norm(case.channels, activation)
    y = normalized(x, norm)
    wanted, _, wanted_weight = expected(case, y, w, b, g)
    for kernel in kernels_for(case, "forward_normalized"):
        result = _C.conv_forward(x, w, b, *geometry(case), False, False, kernel, norm)
        assert_near(result, wanted, FORWARD_BOUND)
        if kernel != "reference":  # which adds in double
            stored = _C.conv_forward(y, w, b, *geometry(case), False, False, kernel)
            assert np.array_equal(result, stored)
    for kernel in kernels_for(case, "weight_gradient_normalized"):
        arguments = case.kernel, *geometry(case), kernel
        result = _C.conv_weight_gradient(x, g, *arguments, norm=norm)
        assert_near(result, wanted_weight, GRADIENT_BOUND)
        if kernel != "reference":
            assert np.array_equal(result, _C.conv_weight_gradient(y, g, *arguments))


@pytest.mark.parametrize(
    "name", ["many_weights", "many_tiles", "five_tails", "depthwise_strided", "pointwise"]
)
def test_thread_count_changes_no_bit(name, isa):
    case = CASES[name]
    x, w, b, g = make_arrays(case)
    norm = make_norm(case.channels, 1)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            y = _C.conv_forward(x, w, b, *geometry(case), False, False, norm=norm)
            found.append(
                (y, _C.conv_weight_gradient(x, g, case.kernel, *geometry(case), norm=norm))
            )
    finally:
        torch.set_num_threads(before)
    assert all(
        np.array_equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True)
    )


def test_bad_norms_are_refused():
    case = CASES["same_padding"]
    x, w, b, _ = make_arrays(case)
    *vectors, _ = make_norm(case.channels, 0)
    arguments = x, w, b, *geometry(case), False, False, ""
    with pytest.raises(ValueError, match="one element an input channel: 32, got 31"):
        _C.conv_forward(*arguments, (vectors[0][1:], *vectors[1:], 0))
    with pytest.raises(ValueError, match="activation must be 0 to 3, got 4"):
        _C.conv_forward(*arguments, (*vectors, 4))
    z = torch.zeros(1, 32, 4, 4).contiguous(memory_format=torch.channels_last)
    good, short, weight = torch.ones(32), torch.ones(31), torch.ones(32, 32, 3, 3)
    with pytest.raises(RuntimeError, match="invstd"):
        torch.ops.pyconvopt.conv2d_normalized(
            z, None, None, good, short, 0, weight, None, 1, 1, 0, 0, 1, 1, 1, False, False
        )
    with pytest.raises(RuntimeError, match="moments are of the map before relu"):
        torch.ops.pyconvopt.conv2d_normalized(
            z, None, None, good, good, 0, weight, None, 1, 1, 0, 0, 1, 1, 1, True, True
        )
