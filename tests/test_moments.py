"""Statistics that a convolution takes for the batch norm behind it, on every kernel and instruction set."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import pyconvopt as pco
from pyconvopt import _C, functional, layers, models

from .cases import CONV_CASES
from .test_kernels_conv import geometry, kernels_for, make_arrays

CASES = {case.name: case for case in CONV_CASES}
NUMBERS = ("rgb", "gray_padded", "channel_tails", "many_weights", "five_tails", "depthwise_strided")


def merged(moments: np.ndarray, channels: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean, variance and number of rows of all pieces."""
    means, squares, rows = moments[:, :channels], moments[:, channels:-1], moments[:, -1:]
    means, squares, rows = (each.astype(np.float64) for each in (means, squares, rows))
    mean = (means * rows).sum(0) / rows.sum()
    square = squares.sum(0) + (rows * (means - mean) ** 2).sum(0)
    return mean, square / rows.sum(), float(rows.sum())


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("case", CONV_CASES, ids=str)
def test_every_kernel_that_takes_them(case, offset, isa):
    x, w, b, _ = make_arrays(case)
    b = b + np.float32(offset)
    for kernel in kernels_for(case, "forward_moments"):
        y, moments = _C.conv_moments(x, w, b, *geometry(case), kernel)
        assert np.array_equal(y, _C.conv_forward(x, w, b, *geometry(case), False, False, kernel))
        rows = y.reshape(-1, case.out_channels).astype(np.float64)
        mean, variance, count = merged(moments, case.out_channels)
        assert count == len(rows)
        deviation = rows.std(0) + 1e-30
        assert (np.abs(mean - rows.mean(0)) <= 2e-7 * np.abs(rows).max(0)).all()
        # A mean's rounding enters squared differences once: it is small against the deviation.
        bound = 2e-6 + 2e-7 * np.abs(rows).max(0) / deviation
        assert (np.abs(variance - rows.var(0)) <= bound * deviation**2).all()


@pytest.mark.parametrize("name", NUMBERS)
def test_thread_count_changes_no_bit(name, isa):
    case = CASES[name]
    x, w, b, _ = make_arrays(case)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            found.append(_C.conv_moments(x, w, b, *geometry(case))[1])
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_batch_norm_by_them(isa):
    torch.manual_seed(0)
    x = torch.randn(8, 32, 14, 14).contiguous(memory_format=torch.channels_last)
    weight, gamma, beta = torch.randn(64, 32, 3, 3) / 17, torch.rand(64), torch.randn(64)
    y, moments = functional.conv2d_moments(x, weight, torch.full((64,), 5.0), padding=1)
    assert moments is not None
    results = []
    for given in (None, moments):
        mean, var = torch.zeros(64), torch.ones(64)
        z = functional.batch_norm(
            y, mean, var, gamma, beta, training=True, activation="relu", moments=given
        )
        results.append((z, mean, var))
    for without, by_moments in zip(*results, strict=True):
        torch.testing.assert_close(by_moments, without, rtol=2e-6, atol=2e-6)
    # In evaluation they are of no use, and not looked at.
    torch.testing.assert_close(
        functional.batch_norm(y, mean, var, moments=moments), functional.batch_norm(y, mean, var)
    )


def test_gradients_run_through_the_map():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 6, requires_grad=True)
    weight = (torch.randn(32, 3, 3, 3) / 5).requires_grad_()

    def loss(convolve):
        y, moments = convolve(x, weight, None, 1, 1)
        y = functional.batch_norm(y, None, None, training=True, moments=moments)
        return torch.autograd.grad((y * y.detach().cos()).sum(), (x, weight))

    plain = loss(lambda *args: (torch.conv2d(*args), None))
    for ours, wanted in zip(loss(functional.conv2d_moments), plain, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)
    y, moments = functional.conv2d_moments(x, weight, None, 1, 1)
    assert y.requires_grad and not moments.requires_grad


def test_where_no_kernel_takes_them():
    x = torch.randn(2, 16, 9, 9)
    y, moments = functional.conv2d_moments(x, torch.randn(16, 16, 3, 3), None, 2)
    assert moments is None and y.shape == (2, 16, 4, 4)
    y, moments = functional.conv2d_moments(x.double(), torch.randn(16, 16, 3, 3).double())
    assert moments is None and y.dtype is torch.float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m[:, 1:].contiguous(), "expected moments of 65 numbers a piece for 32 channels"),
        (lambda m: m[1:], "the moments are of 36 rows, the input has 72"),
        (lambda m: m.double(), "moments"),
    ],
)
def test_moments_of_another_map_are_refused(change, message):
    x = torch.randn(2, 3, 6, 6).contiguous(memory_format=torch.channels_last)
    y, moments = functional.conv2d_moments(x, torch.randn(32, 3, 3, 3), None, 1, 1)
    with pytest.raises(RuntimeError, match=message):
        functional.batch_norm(y, None, None, training=True, moments=change(moments))


def block(*behind: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), *behind)


def test_accelerate_takes_them(monkeypatch):
    torch.manual_seed(0)
    model, x = block(nn.MaxPool2d(2)), torch.randn(4, 3, 12, 12)
    wanted = model(x)
    model[1].reset_running_stats()
    given = []
    norm = functional.batch_norm
    monkeypatch.setattr(
        functional, "batch_norm", lambda *a, **k: (given.append(k["moments"]), norm(*a, **k))[1]
    )
    torch.testing.assert_close(pco.accelerate(model)(x), wanted, rtol=1e-5, atol=1e-5)
    assert len(given) == 1 and given[0] is not None


@pytest.mark.parametrize("differentiated", [True, False])
def test_dropout_behind_a_frozen_norm_drops(differentiated):
    """The norm stands in evaluation and is folded; the dropout behind it is in training."""
    torch.manual_seed(0)
    model = block(nn.Dropout(0.5))
    model[1].eval()
    model = pco.accelerate(model)
    with torch.set_grad_enabled(differentiated):
        dropped = (model(torch.randn(4, 3, 16, 16)) == 0).float().mean()
    assert 0.7 < dropped < 0.8  # a half by ReLU, and half of the rest


def test_sequential_takes_them():
    torch.manual_seed(0)
    model = models.Sequential(
        [
            layers.Conv2D(32, 3, padding="same", input_shape=(12, 12, 3)),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3),
            layers.BatchNormalization(),
        ]
    ).train()
    table = pco.explain(model, torch.zeros(4, 12, 12, 3))
    forward = [row for row in table.rows if (row["op"], row["pass"]) == ("conv2d", "forward")]
    assert len(forward) == 2
    assert all(row["reason"].startswith("statistics for batch norm") for row in forward)
    x = torch.rand(4, 12, 12, 3)
    together = model(x)
    for layer in model.layers:  # a hook makes a layer run alone
        layer.register_forward_hook(lambda *_: None)
    torch.testing.assert_close(together, model(x), rtol=1e-5, atol=1e-5)
