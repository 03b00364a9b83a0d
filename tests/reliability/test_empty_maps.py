"""Dimensions of size zero, one at a time and together: torch's result or torch's refusal."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import pyconvopt as pco
from pyconvopt import _C

OPS = torch.ops.pyconvopt


def outcome(call):
    """Results, or the error's type and first line."""
    try:
        return call()
    except (RuntimeError, ValueError, IndexError) as error:
        return type(error), str(error).splitlines()[0]


def assert_same_outcome(ours, theirs):
    got, wanted = outcome(ours), outcome(theirs)
    if isinstance(wanted[0], type):
        assert got == wanted
        return
    for a, b in zip(got, wanted, strict=True):
        if b is None:
            assert a is None
        else:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
            order = [(a.stride(d), b.stride(d)) for d in range(b.dim()) if b.shape[d] > 1]
            assert all(x == y for x, y in order) or b.numel() == 0


def with_gradients(function, *tensors):
    leaves = [t.clone(memory_format=torch.preserve_format).requires_grad_() for t in tensors]
    y = function(*leaves)
    y.sum().backward()
    return [y.detach(), *(leaf.grad for leaf in leaves)]


def pool_after(conv):
    return lambda *arguments: F.max_pool2d(conv(*arguments), 2)


@pytest.mark.parametrize("pooled", [False, True], ids=["plain", "pooled"])
@pytest.mark.parametrize("channels", [0, 1, 16])
@pytest.mark.parametrize("batch", [0, 2])
def test_convolution(batch, channels, pooled):
    ours = pco.functional.conv2d_max_pool if pooled else pco.functional.conv2d
    theirs = pool_after(F.conv2d) if pooled else F.conv2d
    for height, width, outputs, kernel, padding in itertools.product(
        (0, 1, 5), (0, 5), (0, 16), (0, 1, 3), (0, 1)
    ):
        tensors = (
            torch.randn(batch, channels, height, width),
            torch.randn(outputs, channels, kernel, kernel),
            torch.randn(outputs),
        )
        assert_same_outcome(
            *(
                lambda f=f, p=padding, t=tensors: with_gradients(
                    lambda x, w, b: f(x, w, b, 1, p), *t
                )
                for f in (ours, theirs)
            )
        )


@pytest.mark.parametrize(
    "shape",
    [(0, 4, 6, 6), (2, 0, 6, 6), (2, 4, 0, 6), (2, 4, 6, 0), (2, 4, 1, 6), (0, 0, 0, 0)],
    ids=str,
)
def test_functions_of_maps(shape):
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    weight, mean, var = torch.rand(shape[1]), torch.zeros(shape[1]), torch.ones(shape[1])
    for ours, theirs in [
        (lambda x: pco.functional.max_pool2d(x, 2), lambda x: F.max_pool2d(x, 2)),
        (pco.functional.relu, F.relu),
        (lambda x: pco.functional.dropout(x, 0.5) * 0, lambda x: F.dropout(x, 0.5) * 0),
        (lambda x: pco.functional.dropout2d(x, 0.5) * 0, lambda x: F.dropout2d(x, 0.5) * 0),
    ]:
        assert_same_outcome(
            lambda f=ours: with_gradients(f, x), lambda f=theirs: with_gradients(f, x)
        )
    for training in (False, True):
        assert_same_outcome(
            *(
                lambda f=f, training=training: with_gradients(
                    lambda x, w: f(x, mean.clone(), var.clone(), w, None, training), x, weight
                )
                for f in (pco.functional.batch_norm, F.batch_norm)
            )
        )


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (0, 0), (4,), ()], ids=str)
def test_other_dimensions(shape):
    x = torch.randn(shape)
    assert OPS.relu(x).shape == OPS.dropout(x, 0.5, 1, 1).shape == x.shape
    assert OPS.relu_backward(x, x, False)[0].shape == x.shape
    if len(shape) == 2:
        assert torch.equal(OPS.channel_sum(x), x.sum(0)) or x.numel()


def test_optimisers_step_over_empty_parameters():
    parameters = [torch.zeros(0, 3), torch.ones(5), torch.zeros(0)]
    gradients = [torch.zeros_like(p) for p in parameters]
    gradients[1] += 1
    OPS.sgd_step_(parameters, gradients, [], 0.5, 0.0, 0.0, 0.0, False, False, False)
    assert torch.equal(parameters[1], torch.full((5,), 0.5))

    for optimizer in (pco.optimizers.SGD, pco.optimizers.Adam):
        weights = [torch.nn.Parameter(torch.ones(shape)) for shape in ((0, 3), (2,))]
        step = optimizer(weights, lr=0.5)
        step.step()  # no gradient anywhere
        assert torch.equal(weights[1].detach(), torch.ones(2))
        weights[0].grad, weights[1].grad = torch.ones(0, 3), torch.ones(2)
        step.step()
        torch.testing.assert_close(weights[1].detach(), torch.full((2,), 0.5))


def test_gradients_of_no_images(isa):
    """No image, or no window in any: the weight gradient is zero, not left as it was found."""
    geometry = ((1, 1), (0, 0), (1, 1), 1)
    for channels in (1, 16):
        x, g = np.ones((0, 5, 5, channels), np.float32), np.ones((0, 3, 3, 16), np.float32)
        dw = _C.conv_weight_gradient(x, g, (3, 3), *geometry)
        assert dw.shape == (16, 3, 3, channels) and not dw.any()
        x, g = np.ones((2, 3, 5, channels), np.float32), np.ones((2, 0, 1, 16), np.float32)
        argmax = np.zeros(g.shape, np.uint8)
        for result in _C.conv_weight_gradient(x, g, (3, 3), *geometry, argmax=argmax):
            assert not result.any()
        dx = _C.conv_data_gradient(
            g, np.ones((16, 3, 3, channels), np.float32), (3, 5), *geometry, argmax=argmax
        )
        assert dx.shape == x.shape and not dx.any()


def test_pooled_gradient_operators_of_a_map_too_low_for_a_window():
    for channels in (1, 16):
        x = torch.ones(2, channels, 3, 5).contiguous(memory_format=torch.channels_last)
        weight, g = torch.ones(16, channels, 3, 3), torch.ones(2, 16, 0, 1)
        argmax = torch.zeros(2, 16, 0, 1, dtype=torch.uint8)
        hyper = (1, 1, 0, 0, 1, 1, 1)
        for result in OPS.conv2d_max_pool_weight_gradient(x, g, argmax, weight, *hyper):
            assert not result.any()
        dx = OPS.conv2d_max_pool_data_gradient(g, argmax, weight, 3, 5, *hyper)
        assert dx.shape == x.shape and not dx.any()
