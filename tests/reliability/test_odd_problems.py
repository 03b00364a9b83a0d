"""Problems at the edge of what operators take: no channels, huge or tiny numbers, sizes that overflow."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import pyconvopt as pco
from pyconvopt import _C

OPS = torch.ops.pyconvopt
PLAIN = (1, 1, 1, 1, 1, 1, 1)  # stride, padding, dilation, groups


@pytest.fixture(params=[*_C.available_isas(), "reference"], autouse=True)
def kernels(request):
    with pco.settings(isa=request.param):
        yield request.param


def test_no_input_channels_leave_the_bias():
    x, weight, bias = torch.zeros(1, 0, 4, 4), torch.zeros(16, 0, 3, 3), torch.arange(16.0)
    wanted = bias[None, :, None, None].expand(1, 16, 4, 4)
    assert torch.equal(OPS.conv2d(x, weight, bias, *PLAIN, False), wanted)
    assert torch.equal(OPS.conv2d_moments(x, weight, bias, *PLAIN)[0], wanted)
    assert torch.equal(OPS.conv2d_max_pool(x, weight, bias, *PLAIN, False)[0], wanted[:, :, :2, :2])
    argmax = torch.zeros(1, 2, 2, 16, dtype=torch.uint8).permute(0, 3, 1, 2)
    g = torch.ones(1, 2, 2, 16).permute(0, 3, 1, 2)
    gradient = OPS.conv2d_max_pool_weight_gradient(x, g, argmax, weight, *PLAIN)
    assert torch.equal(gradient[1], torch.full((16,), 4.0))


@pytest.mark.parametrize("size", [(0, 3), (3, 0), (0, 0)])
def test_a_kernel_without_taps_is_refused(size):
    x = torch.ones(1, 16, 4, 4).contiguous(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match="kernel size should be greater than zero"):
        OPS.conv2d(x, torch.zeros(16, 16, *size), None, 1, 1, 0, 0, 1, 1, 1, False)


def test_sizes_beyond_counting_are_refused():
    g, w = (
        torch.ones(1, 16, 4, 4).contiguous(memory_format=torch.channels_last),
        torch.ones(16, 4, 3, 3),
    )
    with pytest.raises(RuntimeError, match="maps of at most"):
        OPS.conv2d_data_gradient(g, w, 2**63 - 1, 4, *PLAIN)
    with pytest.raises(RuntimeError, match="groups of at most"):
        OPS.conv2d_data_gradient(g, w[:0], 4, 4, *PLAIN[:-1], 2**62)
    with pytest.raises(ValueError, match="sizes must lie in 0 to"):
        _C.choose_conv("forward", 2**62, 16, 4, 4, 16, (3, 3), (1, 1), (1, 1), (1, 1), 1)


def test_negative_padding_is_refused():
    x, w = np.ones((1, 8, 8, 3), np.float32), np.ones((16, 3, 3, 3), np.float32)
    with pytest.raises(ValueError, match=r"padding must not be negative, got \(-1, -1\)"):
        _C.conv_forward(x, w, None, (1, 1), (-1, -1), (1, 1), 1, False, False)


def test_a_number_is_no_map():
    with pytest.raises(ValueError, match="expected a map"):
        _C.conv_forward(
            np.float32(1),
            np.ones((16, 3, 3, 3), np.float32),
            None,
            (1, 1),
            (1, 1),
            (1, 1),
            1,
            False,
            False,
        )


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("momentum", [0.1, 1.0])
def test_running_statistics_far_from_the_batchs(scale, momentum):
    x = (torch.randn(8, 16, 6, 6) * scale).contiguous(memory_format=torch.channels_last)
    ours = [torch.full((16,), 1e4), torch.ones(16)]
    theirs = [each.double() for each in ours]
    pco.functional.batch_norm(x, *ours, training=True, momentum=momentum)
    F.batch_norm(x.double(), *theirs, training=True, momentum=momentum)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=2e-6, atol=1e-6 * scale)


@pytest.mark.parametrize("value", [1e20, 1e-23, 3.0, 0.0])
def test_squares_beyond_single_precision(value):
    p = torch.full((2, 40), value)
    wanted = p.double().square().sum()
    torch.testing.assert_close(OPS.sum_of_squares([p]), wanted, rtol=1e-6, atol=0)
    bound = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    OPS.sgd_step_(
        [p], [torch.zeros_like(p)], [], 0.1, 0.0, 0.0, 0.0, False, False, False, 1.0, bound
    )
    norm = value * 40**0.5
    shrunk = value * min(norm, 1.0) / (norm + 1e-7)
    torch.testing.assert_close(p, torch.full_like(p, shrunk), rtol=2e-6, atol=1e-38)


def test_a_bound_that_is_no_number_is_refused():
    bound = torch.tensor([[0.0, torch.nan]], dtype=torch.float64)
    with pytest.raises(RuntimeError, match="a bound that is a number"):
        OPS.sgd_step_(
            [torch.ones(2)],
            [torch.ones(2)],
            [],
            0.1,
            0.0,
            0.0,
            0.0,
            False,
            False,
            False,
            1.0,
            bound,
        )


def test_moments_of_more_rows_than_a_float_counts(kernels):
    if kernels != "reference":
        pytest.skip("the others count in short pieces")
    x = torch.ones(1, 1, 4097, 4099)
    y, moments = OPS.conv2d_moments(x, torch.full((1, 1, 1, 1), 2.0), None, 1, 1, 0, 0, 1, 1, 1)
    assert moments[:, -1].sum(dtype=torch.float64) == 4097 * 4099
    mean, _ = OPS.batch_norm_statistics(y, None, None, 0.1, 1e-5, moments)
    assert mean == 2


def test_long_sums_of_one_sign():
    x = torch.full((1, 8, 1024, 2048), 0.1).contiguous(memory_format=torch.channels_last)
    weight = torch.empty(8, 1, 1, 1)
    found = OPS.conv2d_weight_gradient(x, x, weight, 1, 1, 0, 0, 1, 1, 8)
    wanted = x.double().square().sum(dim=(0, 2, 3))
    assert ((found.flatten() - wanted).abs() / wanted).max() < 1e-4


class TestSequence:
    def sequence(self):
        made = _C.ConvSequence(_C.PreparedWeights())
        weight = np.ones((16, 16, 1, 1), np.float32)
        value = made.add(
            made.add_input(1, 16, 4, 4), -1, weight, None, (1, 1), (0, 0), (1, 1), 1, 0, False
        )
        return made, value

    def test_results_are_named_once(self):
        made, value = self.sequence()
        with pytest.raises(ValueError, match="value 1 is a result twice"):
            made.finish([value, value])
        made.finish([value])
        with pytest.raises(ValueError, match="finished already"):
            made.finish([value])

    def test_it_needs_a_place_for_weights(self):
        with pytest.raises(TypeError):
            _C.ConvSequence(None)

    def test_weights_lie_at_whole_floats(self):
        kind = np.dtype({"names": ["a"], "formats": ["f4"], "offsets": [0], "itemsize": 6})
        weight = np.zeros((16, 16, 1, 1), kind)["a"]
        made = _C.ConvSequence(_C.PreparedWeights())
        with pytest.raises(ValueError, match="whole floats"):
            made.add(
                made.add_input(1, 16, 4, 4), -1, weight, None, (1, 1), (0, 0), (1, 1), 1, 0, False
            )


def test_operators_can_be_traced_after_the_package_alone_is_imported(kernels):
    if kernels != "reference":
        pytest.skip("once is enough")
    program = (
        "import torch, pyconvopt; from torch._subclasses.fake_tensor import FakeTensorMode\n"
        "with FakeTensorMode(): print(torch.ops.pyconvopt.relu(torch.ones(3)).shape)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0 and "torch.Size([3])" in found.stdout, found.stderr
