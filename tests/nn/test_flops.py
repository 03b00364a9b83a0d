"""What ``torch.utils.flop_counter`` counts of this library's operators: the convolution's multiplications."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pyconvopt import functional
from pyconvopt.functional.unstored import unstored_batch_norm


def normalized(x, w, **options):
    """A batch norm that the convolution makes of what it reads."""
    channels = torch.ones(x.shape[1], requires_grad=True)
    unstored = unstored_batch_norm(x, None, None, channels, channels, True, 0.1, 1e-5)
    return functional.conv2d(unstored, w, **options)


def before_norm(x, w, **options):
    """A convolution that a batch norm alone reads, which leaves its gradient to be made on the way."""
    channels = torch.ones(w.shape[0], requires_grad=True)
    return functional.conv_norm_act(
        x, w, norm_weight=channels, norm_bias=channels, training=True, **options
    )


@pytest.mark.parametrize(
    ("function", "filters", "groups", "passes", "operators"),
    [
        (functional.conv2d, (32, 16, 3, 3), 1, 3, {"", "_data_gradient", "_weight_gradient"}),
        (functional.conv2d_max_pool, (32, 1, 3, 3), 1, 2, {"_max_pool", "_max_pool_weight_gradient"}),
        (
            normalized, (32, 16, 3, 3), 1, 3,
            {"_normalized", "_data_gradient", "_normalized_weight_gradient"},
        ),
        (before_norm, (32, 16, 3, 3), 1, 3, {"_moments", "_data_gradient", "_weight_gradient"}),
        (before_norm, (16, 1, 3, 3), 16, 3, {"_moments", "_gradients"}),
    ],
)  # fmt: skip
def test_a_pass_of_each_kind(function, filters, groups, passes, operators):
    x = torch.randn(2, groups * filters[1], 64, 64).contiguous(memory_format=torch.channels_last)
    w = torch.randn(filters).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        function(x.requires_grad_(passes == 3), w, groups=groups, padding=1).sum().backward()
    assert counted(counter) == operators
    assert counter.get_total_flops() == passes * 2 * 2 * 64 * 64 * w.numel()


def test_the_data_gradient_of_a_pooled_output():
    g = torch.randn(2, 32, 31, 31).contiguous(memory_format=torch.channels_last)
    argmax, w = torch.zeros_like(g, dtype=torch.uint8), torch.randn(32, 16, 3, 3)
    hyper = (1, 1, 0, 0, 1, 1, 1)
    with FlopCounterMode(display=False) as counter:
        torch.ops.pyconvopt.conv2d_max_pool_data_gradient(g, argmax, w, 64, 64, *hyper)
    assert counter.get_total_flops() == 2 * 2 * 62 * 62 * w.numel()


def counted(counter):
    """The operators, without the beginning of their names."""
    names = map(str, counter.get_flop_counts()["Global"])
    return {name.removeprefix("pyconvopt.conv2d") for name in names}
