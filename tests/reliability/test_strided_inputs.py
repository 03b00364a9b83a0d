"""Tensors of any strides: slices, transposes, expanded and overlapping ones, through functions and modules.

Beside torch: the same values, gradients and, where a dimension has more than one element, strides.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import pyconvopt as pco

fn = pco.functional
N, C, H, W = 3, 16, 9, 10


def base(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


VIEWS = {
    "contiguous": lambda: base(N, C, H, W),
    "channels_last": lambda: base(N, C, H, W).contiguous(memory_format=torch.channels_last),
    "rows left out": lambda: base(N, C, 2 * H, W)[:, :, ::2],
    "channels left out": lambda: base(N, 2 * C, H, W)[:, 1::2],
    "a part of channels_last": lambda: base(N, H + 2, W + 3, 2 * C).permute(0, 3, 1, 2)[
        :, 3 : 3 + C, 1 : 1 + H, 2 : 2 + W
    ],
    "height and width exchanged": lambda: base(N, C, W, H).transpose(2, 3),
    "images innermost": lambda: base(C, H, W, N).permute(3, 0, 1, 2),
    "one image expanded": lambda: base(1, C, H, W).expand(N, C, H, W),
    "one pixel expanded": lambda: base(N, C, 1, 1).expand(N, C, H, W),
    "one channel expanded": lambda: base(N, 1, H, W).expand(N, C, H, W),
    "overlapping windows": lambda: base(400).as_strided((N, C, H, W), (40, 3, 7, 1)),
    "an offset that no vector likes": lambda: base(N * C * H * W + 3)[3:].view(N, C, H, W),
}
VIEW = pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)


def compare(ours, theirs, *tensors, bound=1e-4):
    """Values and gradients of both, the output's gradient an expanded tensor and a strided one."""
    for strided_gradient in (False, True):
        results = []
        for function in (ours, theirs):
            memories = [_memory(t).requires_grad_() for t in tensors]
            views = [
                memory.as_strided(t.shape, t.stride(), t.storage_offset())
                for memory, t in zip(memories, tensors, strict=True)
            ]
            y = function(*views)
            g = torch.ones(()).expand(y.shape)
            if strided_gradient:
                g = base(*y.shape[:-1], 2 * y.shape[-1])[..., ::2]
            results.append([y.detach(), *torch.autograd.grad(y, memories, g)])
        assert _strides(results[0][0]) == _strides(results[1][0])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=bound, atol=bound * max(1, b.abs().max().item()))


def _strides(t):
    """Those that mean something."""
    return [stride for stride, size in zip(t.stride(), t.shape, strict=True) if size > 1]


def _memory(t):
    """All of the memory behind a tensor, as one row."""
    return t.as_strided((t.untyped_storage().nbytes() // 4,), (1,), 0).clone()


WEIGHTS = {
    "contiguous": lambda k, r: base(k, C, r, r),
    "channels_last": lambda k, r: base(k, r, r, C).permute(0, 3, 1, 2),
    "transposed": lambda k, r: base(C, k, r, r).transpose(0, 1),
    "sliced": lambda k, r: base(2 * k, C, r, r)[::2],
    "expanded": lambda k, r: base(1, C, r, r).expand(k, C, r, r),
}


@VIEW
@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
def test_convolution(view, weight):
    x, w, b = view(), weight(32, 3), base(32)
    compare(
        lambda x, w, b: fn.conv2d(x, w, b, padding=1),
        lambda x, w, b: F.conv2d(x, w, b, padding=1),
        x, w, b,
    )  # fmt: skip


@VIEW
def test_convolution_with_pooling(view):
    compare(
        lambda x, w: fn.conv2d_max_pool(x, w, activation="relu"),
        lambda x, w: F.max_pool2d(F.relu(F.conv2d(x, w)), 2),
        view(), base(32, C, 3, 3),
    )  # fmt: skip


@VIEW
def test_few_channels(view):
    compare(
        lambda x, w: fn.conv2d(x[:, :3], w),
        lambda x, w: F.conv2d(x[:, :3], w),
        view(),
        base(16, 3, 3, 3),
    )


@VIEW
@pytest.mark.parametrize("padding", [0, 1])
def test_depthwise(view, padding):
    compare(
        lambda x, w: fn.conv2d(x, w, padding=padding, groups=C),
        lambda x, w: F.conv2d(x, w, padding=padding, groups=C),
        view(),
        base(C, 1, 3, 3),
    )


@VIEW
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "vector", [lambda: base(C), lambda: base(2 * C)[::2]], ids=["dense", "strided"]
)
def test_batch_norm(view, training, vector):
    mean, var = vector(), vector().abs() + 0.5

    def plain(function, **options):
        return lambda x, w, b: function(x, mean.clone(), var.clone(), w, b, training, **options)

    vectors = vector(), base(1).expand(C) if vector().stride(0) > 1 else vector()
    compare(plain(fn.batch_norm), plain(F.batch_norm), view(), *vectors)
    residual = VIEWS["rows left out"]()
    compare(
        plain(fn.batch_norm, residual=residual, activation="relu"),
        lambda x, w, b: F.relu(plain(F.batch_norm)(x, w, b) + residual),
        view(), *vectors,
    )  # fmt: skip


@pytest.mark.parametrize("bias", [lambda: base(64)[::2], lambda: base(1).expand(32)])
def test_bias_of_any_stride(bias):
    for ours, theirs in (
        (fn.conv2d, F.conv2d),
        (fn.conv2d_max_pool, lambda x, w, b: F.max_pool2d(F.conv2d(x, w, b), 2)),
    ):
        compare(ours, theirs, VIEWS["channels_last"](), base(32, C, 3, 3), bias())


@VIEW
def test_pooling_and_relu(view):
    compare(lambda x: fn.max_pool2d(x, 2), lambda x: F.max_pool2d(x, 2), view())
    compare(fn.relu, F.relu, view())


@VIEW
def test_dropout_keeps_values_and_strides(view):
    x = view()
    for function, theirs in ((fn.dropout, F.dropout), (fn.dropout2d, F.dropout2d)):
        y = function(x, 0.25)
        kept = y != 0
        assert 0.4 < kept.float().mean() < 1
        torch.testing.assert_close(y[kept], x[kept] / 0.75)
        assert _strides(y) == _strides(theirs(x, 0.25))


@VIEW
def test_modules(view):
    """A block of modules, in training and in evaluation."""
    for training in (True, False):
        for kind in (torch.nn, pco.nn):
            torch.manual_seed(3)
            layers = [kind.Conv2d(C, 32, 3), kind.BatchNorm2d(32), kind.ReLU(), kind.MaxPool2d(2)]
            model = torch.nn.Sequential(*layers).train(training)
            result = model(view())
            if kind is torch.nn:
                wanted = result
        torch.testing.assert_close(result, wanted, rtol=1e-4, atol=1e-4)
        assert _strides(result) == _strides(wanted)
