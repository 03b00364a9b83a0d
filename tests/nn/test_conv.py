"""`pco.nn.Conv2d` beside `torch.nn.Conv2d`: arguments, layouts, gradients, other dtypes."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import pyconvopt as pco

from ..cases import CONV_CASES
from .helpers import assert_same, assert_same_step

CHANNELS_LAST = torch.channels_last


def pair_of(*arguments, **options):
    """Ours and torch's, with the same weights."""
    ours = pco.nn.Conv2d(*arguments, **options)
    theirs = torch.nn.Conv2d(*arguments, **options)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, CHANNELS_LAST], ids=str)
@pytest.mark.parametrize("case", CONV_CASES, ids=str)
def test_case_table(case, memory_format):
    ours, theirs = pair_of(
        case.channels,
        case.out_channels,
        case.kernel,
        case.stride,
        case.padding,
        case.dilation,
        case.groups,
    )
    x = torch.randn(case.batch, case.channels, case.height, case.width)
    assert_same_step(ours, theirs, x.contiguous(memory_format=memory_format))


@pytest.mark.parametrize("isa_winograd", [True, False])
def test_every_instruction_set_through_torch(isa, isa_winograd):
    ours, theirs = pair_of(32, 48, 3, padding=1)
    with pco.settings(winograd=isa_winograd):
        assert_same_step(ours, theirs, torch.randn(2, 32, 9, 9))


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "same"},
        {"padding": "valid"},
        {"padding": "same", "kernel_size": 4},
        {"padding": "same", "dilation": 2},
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": 2, "padding_mode": "circular"},
        {"padding": (1, 2), "padding_mode": "replicate"},
        {"bias": False},
        {"stride": 2, "padding": 1},
        {"groups": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("channels", [2, 16])
def test_constructor_arguments(options, channels):
    options = {"kernel_size": 3, **options}
    ours, theirs = pair_of(channels, 16, **options)
    assert repr(ours) == repr(theirs)
    assert_same_step(ours, theirs, torch.randn(2, channels, 9, 11))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("padding", [0, 1, (0, 2), "valid"], ids=str)
@pytest.mark.parametrize("stride", [2, (1, 3)], ids=str)
def test_thin_filters_that_skip_pixels(stride, padding, groups):
    # Against double: torch's own gradient of these writes past its buffer in float32.
    ours = pco.nn.Conv2d(4, 6, 1, stride, padding, groups=groups)
    theirs = copy.deepcopy(ours).double()
    x = torch.randn(4, 4, 9, 8).contiguous(memory_format=CHANNELS_LAST).requires_grad_()
    exact = x.detach().double().requires_grad_()
    for layer, input in ((ours, x), (theirs, exact)):
        layer(input).square().sum().backward()
    assert_same(ours(x).double(), theirs(exact))
    assert_same(x.grad.double(), exact.grad)
    assert_same(ours.weight.grad.double(), theirs.weight.grad)
    assert_same(ours.bias.grad.double(), theirs.bias.grad)


def test_unbatched_and_strided_inputs():
    ours, theirs = pair_of(16, 16, 3)
    assert_same(ours(torch.ones(16, 6, 6)), theirs(torch.ones(16, 6, 6)))
    wide = torch.randn(2, 32, 12, 12)
    for x in (wide[:, ::2], wide[:, :16, ::2, 1:], wide[:, :1].expand(2, 16, 12, 12)):
        assert_same(ours(x), theirs(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_torchs(dtype):
    ours, theirs = (m.to(dtype) for m in pair_of(16, 16, 3))
    x = torch.randn(2, 16, 6, 6, dtype=dtype)
    assert torch.equal(ours(x), theirs(x))


def test_gradcheck_in_double():
    layer = pco.nn.Conv2d(3, 4, 3, padding=1).double()
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))
    assert torch.autograd.gradgradcheck(layer, (x,))


@pytest.mark.parametrize("activation", [None, "relu"])
def test_double_backward_takes_the_reference_path(activation):
    x = torch.randn(2, 16, 8, 8, requires_grad=True)
    w = torch.randn(16, 16, 3, 3, requires_grad=True)
    b = torch.randn(16, requires_grad=True)

    def penalty(conv):
        y = conv(x, w, b)
        gx, gw = torch.autograd.grad(y.square().sum(), (x, w), create_graph=True)
        return torch.autograd.grad(gx.square().sum() + gw.square().mean(), (x, w, b))

    def plain(x, w, b):
        y = torch.conv2d(x, w, b)
        return torch.relu(y) if activation else y

    results = penalty(lambda *a: pco.functional.conv2d(*a, activation=activation))
    for ours, wanted in zip(results, penalty(plain), strict=True):
        assert_same(ours, wanted, 1e-3)


def test_fused_pool_double_backward():
    x = torch.randn(2, 16, 9, 8, requires_grad=True)
    w = torch.randn(16, 16, 3, 3, requires_grad=True)

    def penalty(f):
        (gx,) = torch.autograd.grad(f(x, w).square().sum(), x, create_graph=True)
        return torch.autograd.grad(gx.square().sum(), (x, w))

    def plain(x, w):
        return torch.max_pool2d(torch.relu(torch.conv2d(x, w)), 2)

    results = penalty(lambda *a: pco.functional.conv2d_max_pool(*a, activation="relu"))
    for ours, wanted in zip(results, penalty(plain), strict=True):
        assert_same(ours, wanted, 1e-3)


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("case", CONV_CASES, ids=str)
def test_fused_pool_and_activation(case, activation):
    if min(case.out_size) < 2:
        pytest.skip("no 2x2 window")
    x = torch.randn(case.batch, case.channels, case.height, case.width)
    w = torch.randn(case.out_channels, case.channels // case.groups, *case.kernel) * 0.3
    b = torch.randn(case.out_channels)
    geometry = (case.stride, case.padding, case.dilation, case.groups)
    results = []
    for fused in (True, False):
        leaves = [t.clone().requires_grad_() for t in (x, w, b)]
        if fused:
            y = pco.functional.conv2d_max_pool(*leaves, *geometry, activation=activation)
        else:
            y = torch.conv2d(*leaves, *geometry)
            y = torch.max_pool2d(torch.relu(y) if activation else y, 2)
        g = torch.sin(torch.arange(y.numel()).float()).view(y.shape)
        y.backward(g)
        results.append([y, *(t.grad for t in leaves)])
    for ours, wanted in zip(*results, strict=True):
        assert_same(ours, wanted, 2e-3)  # a maximum that is a near tie may move one gradient


def test_only_what_needs_a_gradient_gets_one():
    x = torch.randn(2, 16, 8, 8)
    layer = pco.nn.Conv2d(16, 16, 3)
    layer.weight.requires_grad_(False)
    layer(x).sum().backward()
    assert layer.weight.grad is None and layer.bias.grad is not None
    layer.requires_grad_(False)
    layer.zero_grad()
    assert not layer(x).requires_grad
    layer(x.requires_grad_()).sum().backward()
    assert x.grad is not None and layer.bias.grad is None


def test_state_and_copies():
    ours, theirs = pair_of(16, 16, 3)
    theirs.load_state_dict(copy.deepcopy(ours).state_dict())
    again = pickle.loads(pickle.dumps(ours))
    x = torch.randn(1, 16, 5, 5)
    assert torch.equal(again(x), ours(x))
    assert isinstance(ours, torch.nn.Conv2d)


def test_transforms_and_autocast_are_torchs():
    layer, theirs = pair_of(16, 16, 3)
    x = torch.randn(3, 2, 16, 6, 6)
    assert_same(torch.func.vmap(layer)(x), torch.func.vmap(theirs)(x))
    grads = torch.func.grad(lambda w: layer._conv_forward(x[0], w, None).sum())(layer.weight)
    wanted = torch.func.grad(lambda w: torch.conv2d(x[0], w).sum())(layer.weight)
    assert_same(grads, wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x[0]).dtype == torch.bfloat16
    with torch.inference_mode():
        assert_same(layer(x[0]), theirs(x[0]))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x[0], torch.ones_like(x[0]))
        tangent = torch.autograd.forward_ad.unpack_dual(layer(dual)).tangent
        assert_same(tangent, torch.conv2d(torch.ones_like(x[0]), layer.weight))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 15, 8, 8), "expected input.* to have 16 channels, but got 15"),
        ((2, 16, 2, 8), "Kernel size can't be greater than actual input size"),
        ((16,), "Expected 3D .*or 4D"),
    ],
)
def test_shape_errors_are_torchs(shape, message):
    with pytest.raises(RuntimeError, match=message):
        pco.nn.Conv2d(16, 16, 3)(torch.zeros(shape))


def test_operators_refuse_what_they_cannot_take():
    op = torch.ops.pyconvopt.conv2d
    x = torch.zeros(1, 16, 8, 8).contiguous(memory_format=CHANNELS_LAST)
    w = torch.zeros(16, 16, 3, 3)
    rest = (1, 1, 0, 0, 1, 1, 1, False)
    for arguments, message in [
        ((x.double(), w, None), "expected input of dtype float32"),
        ((x.contiguous(), w, None), "expected input in dense channels_last memory format"),
        ((x[0], w, None), "expected input of 4 dimensions"),
        ((x, w[:, :3], None), r"expected input to have 3 channels, but got 16"),
        ((x, w, torch.zeros(3)), "expected bias to be a contiguous vector of 16 elements"),
        ((x[:, :, :2], w, None), "Kernel size can't be greater|expected input in dense"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            op(*arguments, *rest)
    with pytest.raises(RuntimeError, match="expected groups to divide the 16 output channels"):
        op(x, w, None, 1, 1, 0, 0, 1, 1, 3, False)


@pytest.mark.parametrize("name", ["conv2d", "conv2d_max_pool"])
def test_opcheck_forward(name):
    x = torch.randn(2, 16, 7, 9).contiguous(memory_format=CHANNELS_LAST)
    w, b = torch.randn(24, 16, 3, 3), torch.randn(24)
    op = getattr(torch.ops.pyconvopt, name).default
    torch.library.opcheck(op, (x, w, b, 1, 1, 1, 0, 1, 1, 1, True))
    torch.library.opcheck(op, (x, w, None, 1, 1, 0, 0, 1, 1, 1, False))


def test_opcheck_backward():
    x = torch.randn(2, 16, 7, 9).contiguous(memory_format=CHANNELS_LAST)
    g = torch.randn(2, 24, 7, 7).contiguous(memory_format=CHANNELS_LAST)
    hyper = (1, 1, 1, 0, 1, 1, 1)
    for w in (torch.randn(24, 16, 3, 3), torch.randn(24, 3, 3, 16).permute(0, 3, 1, 2)):
        torch.library.opcheck(
            torch.ops.pyconvopt.conv2d_data_gradient.default, (g, w, 7, 9, *hyper)
        )
        torch.library.opcheck(torch.ops.pyconvopt.conv2d_weight_gradient.default, (x, g, w, *hyper))


def test_opcheck_backward_of_a_pooled_output():
    x = torch.randn(2, 16, 7, 9).contiguous(memory_format=CHANNELS_LAST)
    g = torch.randn(2, 24, 2, 3).contiguous(memory_format=CHANNELS_LAST)
    argmax = torch.zeros_like(g, dtype=torch.uint8)
    w, hyper = torch.randn(24, 16, 3, 3), (1, 1, 0, 0, 1, 1, 1)
    ops = torch.ops.pyconvopt
    torch.library.opcheck(ops.conv2d_max_pool_data_gradient.default, (g, argmax, w, 7, 9, *hyper))
    torch.library.opcheck(ops.conv2d_max_pool_weight_gradient.default, (x, g, argmax, w, *hyper))


@pytest.mark.parametrize("case", [c for c in CONV_CASES if c.channels <= 4], ids=str)
def test_first_layer_reads_the_pooled_gradient(case, isa):
    """Without a gradient of the input the map before the pool is never made, in backward too."""
    x = torch.randn(case.batch, case.channels, case.height, case.width)
    results = []
    for need_x in (False, True):
        leaves = [
            torch.randn(
                case.out_channels, case.channels, *case.kernel, generator=torch.manual_seed(1)
            ),
            torch.randn(case.out_channels, generator=torch.manual_seed(2)),
        ]
        w, b = (t.requires_grad_() for t in leaves)
        geometry = (case.stride, case.padding, case.dilation)
        image = x.clone().requires_grad_(need_x)
        y = pco.functional.conv2d_max_pool(image, w, b, *geometry, activation="relu")
        y.backward(torch.sin(torch.arange(y.numel()).float()).view(y.shape))
        results.append((w.grad, b.grad))
    for ours, wanted in zip(*results, strict=True):
        assert_same(ours, wanted, 1e-4)


def test_zero_sizes():
    ours, theirs = pair_of(16, 16, 3)
    empty = torch.zeros(0, 16, 8, 8)
    assert ours(empty).shape == theirs(empty).shape
