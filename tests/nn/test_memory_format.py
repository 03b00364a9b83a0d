"""Outputs and gradients of inputs lie in memory as torch's do."""

from __future__ import annotations

import pytest
import torch

import pyconvopt as pco

from .helpers import assert_same

CHANNELS_LAST = torch.channels_last
ORDERS = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=CHANNELS_LAST),
    "neither": lambda x: x.permute(0, 2, 1, 3).contiguous().permute(0, 2, 1, 3),
}


def assert_same_orders(ours, theirs, x, orders=("contiguous", "channels_last")):
    """Strides, and values, of the output and the input's gradient, for gradients in these orders."""
    x.requires_grad_()
    y, wanted = ours(x), theirs(x)
    assert_same(y, wanted)
    assert y.stride() == wanted.stride()
    g = torch.randn(wanted.shape)
    for order in orders:
        (dx,), (wanted_dx,) = (
            torch.autograd.grad(z, x, ORDERS[order](g), retain_graph=True) for z in (y, wanted)
        )
        assert_same(dx, wanted_dx)
        assert dx.stride() == wanted_dx.stride(), order


def pair_of(name, *arguments, **options):
    ours, theirs = (getattr(n, name)(*arguments, **options) for n in (pco.nn, torch.nn))
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("weight_order", ["contiguous", "channels_last"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Conv2d", (16, 24, 3)),
        ("Conv2d", (3, 16, 3, 1, 1)),
        ("Conv2d", (32, 32, 1)),
        ("Conv2d", (32, 32, 3, 2)),
        ("Conv2d", (16, 16, 3, 1, 1, 1, 16)),
        ("Conv2d", (16, 16, 4, 1, "same")),
        ("Conv2d", (16, 16, 3, 1, 2, 1, 2)),
        ("ConvTranspose2d", (16, 24, 3)),
        ("ConvTranspose2d", (16, 16, 3, 1, 1, 0, 16)),
    ],
    ids=str,
)
def test_convolutions(name, arguments, order, weight_order):
    ours, theirs = pair_of(name, *arguments)
    for module in (ours, theirs):
        module.weight.data = ORDERS[weight_order](module.weight.data)
    assert_same_orders(ours, theirs, ORDERS[order](torch.randn(2, arguments[0], 10, 11)))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "arguments",
    [(8, 16, 1, 2), (16, 32, 1, 2, 0, 1, 2), (16, 32, 1, (3, 1), 0, 1, 16), (8, 16, 1, 2, 1)],
    ids=str,
)
def test_thin_filters_that_skip_pixels(arguments, order):
    # Beside double: torch's own gradient of these writes past its buffer in float32.
    ours, x = pco.nn.Conv2d(*arguments), ORDERS[order](torch.randn(2, arguments[0], 11, 11))
    theirs, double = torch.nn.Conv2d(*arguments), x.double().requires_grad_()
    theirs.load_state_dict(ours.state_dict())
    y, stride = ours(x.requires_grad_()), theirs(x).stride()
    wanted = theirs.double()(double)
    assert_same(y.double(), wanted)
    assert y.stride() == stride
    (dx,) = torch.autograd.grad(y.sum(), x)
    wanted.sum().backward()
    assert_same(dx.double(), double.grad)
    last = x.is_contiguous(memory_format=CHANNELS_LAST)
    assert dx.is_contiguous(memory_format=CHANNELS_LAST if last else torch.contiguous_format)


@pytest.mark.parametrize("weight_order", ["channels first", "channels last"])
@pytest.mark.parametrize("order", ["channels first", "channels last"])
@pytest.mark.parametrize("arguments", [(16, 32, 3), (16, 16, 3, 2, 1, 1, 16), (16, 8, 1)], ids=str)
def test_sequences(arguments, order, weight_order):
    def ordered(x, order):
        return x if order == "channels first" else x.mT.contiguous().mT

    ours, theirs = pair_of("Conv1d", *arguments)
    for module in (ours, theirs):
        module.weight.data = ordered(module.weight.data, weight_order)
    assert_same_orders(ours, theirs, ordered(torch.randn(2, 16, 12), order), ["contiguous"])


@pytest.mark.parametrize("order", ["contiguous", "channels_last"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("BatchNorm2d", (32,)),
        ("MaxPool2d", (2,)),
        ("MaxPool2d", (3, 2, 1)),
        ("AvgPool2d", (2,)),
        ("AdaptiveAvgPool2d", (3,)),
        ("GELU", ()),
        ("Mish", ()),
        ("ReLU", ()),
    ],
    ids=str,
)
def test_other_layers(name, arguments, order):
    ours, theirs = pair_of(name, *arguments)
    assert_same_orders(ours, theirs, ORDERS[order](torch.randn(4, 32, 12, 12)), [order])


@pytest.mark.parametrize("order", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", ["Dropout", "Dropout2d"])
def test_dropout(name, order):
    x = ORDERS[order](torch.randn(4, 32, 6, 6)).requires_grad_()
    y = getattr(pco.nn, name)()(x)
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert x.stride() == y.stride() == dx.stride()


def test_the_gradient_of_a_contiguous_residual_is_contiguous():
    x = ORDERS["channels_last"](torch.randn(2, 16, 4, 4))
    residual = torch.randn(2, 16, 4, 4, requires_grad=True)
    y = pco.functional.batch_norm(x, None, None, training=True, residual=residual)
    (dx,) = torch.autograd.grad(y.square().sum(), residual)
    assert dx.is_contiguous()


def test_gradients_of_gradients_through_another_order():
    x, w = torch.randn(2, 16, 6, 6, requires_grad=True), torch.randn(16, 16, 3, 3)
    found = []
    for convolve in (pco.functional.conv2d, torch.conv2d):
        (dx,) = torch.autograd.grad(convolve(x, w).pow(3).sum(), x, create_graph=True)
        found.append(torch.autograd.grad(dx.square().sum(), x)[0])
    assert_same(*found)


def test_maps_in_channels_last_and_without_gradient_take_no_further_node():
    w = torch.randn(16, 16, 3, 3, requires_grad=True)
    x = ORDERS["channels_last"](torch.randn(2, 16, 6, 6)).requires_grad_()
    (leaf, _), *_ = pco.functional.conv2d(x, w).grad_fn.next_functions
    assert leaf.variable is x
    image = torch.randn(2, 16, 6, 6)
    node = pco.functional.conv2d(image, w).grad_fn.next_functions[0][0]
    assert node.next_functions[0][0] is None
