"""The operators for CUDA tensors, over the emulated kernels, beside torch and the CPU's operators."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import pyconvopt as pco
import pyconvopt.autograd.norm
import pyconvopt.autograd.pool
from tests.cuda_emulation.library import MISSING
from tests.cuda_emulation.maps import LAYOUTS, TYPES, assert_close, image, memory_format

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
    pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has a CUDA of its own"),
]
SHAPE = (3, 12, 6, 10)


@pytest.fixture(scope="module")
def machine():
    from tests.cuda_emulation.glue import operators

    return operators()


@pytest.fixture
def ops(machine):
    """The operators; every one has to set its device and to go back to the one before."""
    operators, notes = machine
    guards = notes.guards_made()
    yield operators
    assert notes.current_device() == 7
    assert notes.guards_made() > guards


@pytest.fixture
def refusing(machine):
    """The operators, for calls that end before a device is asked for."""
    return machine[0]


def same_order(a, b):
    return a.stride() == b.stride()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_batch_norm(ops, layout, dtype, training):
    x, residual = (image(SHAPE, layout, dtype) for _ in range(2))
    c = SHAPE[1]
    weight, bias, mean, var = torch.randn(c), torch.randn(c), torch.randn(c), torch.rand(c) + 0.5
    x64, residual64 = x.double().requires_grad_(), residual.double().requires_grad_()
    weight64, bias64 = weight.double().requires_grad_(), bias.double().requires_grad_()
    mean64, var64 = mean.double(), var.double()
    wanted = F.batch_norm(x64, mean64, var64, weight64, bias64, training, 0.1, 1e-5)
    wanted = (wanted + residual64).relu()
    gradient = image(SHAPE, layout, dtype)
    wanted.backward(gradient.double())

    y, argmax, saved_mean, saved_invstd = ops.batch_norm_forward(
        x, weight, bias, residual, mean, var, training, 0.1, 1e-5, True, False, 0.0, 0, 0
    )
    assert argmax.numel() == 0 and same_order(y, x) and y.dtype == dtype
    assert_close(y, wanted)
    assert_close(mean, mean64)
    assert_close(var, var64)
    dx, dresidual, dweight, dbias = ops.batch_norm_backward(
        gradient, x, y, None, weight, saved_mean, saved_invstd, training, True, False, 0.0, True, True, bias
    )  # fmt: skip
    assert same_order(dx, x) and same_order(dresidual, x)
    assert_close(dx, x64.grad)
    assert_close(dresidual, residual64.grad)
    assert_close(dweight, weight64.grad, 1e-5)
    assert_close(dbias, bias64.grad, 1e-5)


def test_batch_norm_of_a_matrix_without_parameters(ops):
    x = torch.randn(9, 5)
    y, *_ = ops.batch_norm_forward(
        x, None, None, None, None, None, True, 0.1, 1e-5, False, False, 0.0, 0, 0
    )
    assert_close(y, F.batch_norm(x.double(), None, None, training=True))


def test_fused_dropout_and_its_gradient_agree_with_the_cpu(ops):
    x, gradient = image(SHAPE, "nhwc"), image(SHAPE, "nhwc")
    arguments = (None, None, None, None, None, True, 0.1, 1e-5, True, False, 0.4, 11, 0)
    cpu = torch.ops.pyconvopt
    y, _, mean, invstd = ops.batch_norm_forward(x, *arguments)
    wanted, _, *_ = cpu.batch_norm_forward(x, *arguments)
    assert_close(y, wanted)
    assert torch.equal(y == 0, wanted == 0)
    back = (gradient, x, y, None, None, mean, invstd, True, True, False, 0.4, True, False, None)
    for ours, theirs in zip(
        ops.batch_norm_backward(*back), cpu.batch_norm_backward(*back), strict=True
    ):
        if theirs.numel():
            assert_close(ours, theirs)


@pytest.mark.parametrize("shape", [(5,), (3, 7), SHAPE])
def test_dropout_is_the_cpu_s(ops, shape):
    x = torch.randn(shape)
    assert torch.equal(ops.dropout(x, 0.3, 5, 2), torch.ops.pyconvopt.dropout(x, 0.3, 5, 2))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_dropout_of_channels(ops, layout):
    x = image(SHAPE, layout, torch.float16)
    y = ops.dropout_channels(x, 0.3, 5, 2)
    wanted = torch.ops.pyconvopt.dropout_channels(image(SHAPE, "nhwc").fill_(1), 0.3, 5, 2)
    assert same_order(y, x)
    assert torch.equal(y == 0, wanted == 0) and bool((y == 0).any())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_max_pool(ops, layout):
    x = image((2, 5, 7, 8), layout).requires_grad_()
    wanted = F.max_pool2d(x, 2)
    y, argmax = ops.max_pool2x2(x.detach())
    assert torch.equal(y, wanted) and same_order(argmax, y)
    gradient = torch.randn_like(wanted).contiguous(memory_format=memory_format(layout))
    wanted.backward(gradient)
    dx, nothing = ops.max_pool2x2_backward(gradient, argmax, 7, 8, False)
    assert torch.equal(dx, x.grad) and same_order(dx, x) and nothing.numel() == 0


CONVOLUTIONS = {
    "dense": (8, 1, (1, 1), (1, 1), (1, 1), 1),
    "strided": (6, 1, (2, 1), (0, 2), (1, 2), 2),
    "depthwise": (12, 12, (1, 1), (1, 1), (1, 1), 12),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_convolution(ops, layout, name):
    out, _, stride, padding, dilation, groups = CONVOLUTIONS[name]
    hyper = (*stride, *padding, *dilation, groups)
    x = image(SHAPE, layout)
    weight, bias = image((out, SHAPE[1] // groups, 3, 3), layout), torch.randn(out)
    x64, weight64 = x.double().requires_grad_(), weight.double().requires_grad_()
    wanted = F.conv2d(x64, weight64, bias.double(), stride, padding, dilation, groups)
    y = ops.conv2d(x, weight, bias, *hyper, False)
    assert_close(y, wanted)
    assert_close(ops.conv2d(x, weight, bias, *hyper, True), wanted.relu())
    assert y.is_contiguous(memory_format=memory_format(layout))
    gradient = image(wanted.shape, layout)
    wanted.backward(gradient.double())
    dx = ops.conv2d_data_gradient(gradient, weight, *SHAPE[2:], *hyper)
    assert_close(dx, x64.grad)
    assert dx.is_contiguous(memory_format=memory_format(layout))
    dweight = ops.conv2d_weight_gradient(x, gradient, weight, *hyper)
    assert_close(dweight, weight64.grad)
    assert same_order(dweight, weight)


def test_arithmetic_of_tensor_cores(machine, ops):
    x, weight = image(SHAPE, "nhwc"), torch.randn(8, SHAPE[1], 3, 3)
    hyper = (1, 1, 1, 1, 1, 1, 1, False)
    found = {}
    try:
        for math in (0, 1, 2):  # float32, tf32, bfloat16
            machine[1].set_math(math)
            found[math] = ops.conv2d(x, weight, None, *hyper)
    finally:
        machine[1].set_math(0)
    wanted = F.conv2d(x.double(), weight.double(), padding=1)
    errors = {math: (y - wanted).abs().max() / wanted.abs().max() for math, y in found.items()}
    assert errors[0] < 1e-6 < errors[1] < 1e-3 < errors[2] < 1e-2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_batch_norm_takes_the_convolution_s_moments(ops, layout):
    x, weight, bias = image(SHAPE, layout), image((7, SHAPE[1], 3, 3), layout), torch.randn(7)
    y, moments = ops.conv2d_moments(x, weight, bias, 2, 1, 1, 1, 1, 1, 1)
    assert torch.equal(y, ops.conv2d(x, weight, bias, 2, 1, 1, 1, 1, 1, 1, False))
    assert same_order(y, F.conv2d(x, weight, bias, (2, 1), 1)) and moments.shape == (2, 2, 7)
    options = (None, None, None, None, None, True, 0.1, 1e-5, True, False, 0.0, 0, 0)
    for ours, theirs in zip(
        ops.batch_norm_forward(y, *options, moments),
        ops.batch_norm_forward(y, *options),
        strict=True,
    ):
        if theirs.numel():
            assert_close(ours, theirs, 2e-6)


def test_first_layer_of_one_channel_keeps_the_order_of_its_strides(ops):
    weight = torch.randn(4, 1, 3, 3)
    for layout in LAYOUTS:
        x = image((2, 1, 6, 6), layout)
        x = x.as_strided(x.shape, (36, 1, 6, 1) if layout == "nhwc" else (36, 36, 6, 1))
        y = ops.conv2d(x, weight, None, 1, 1, 1, 1, 1, 1, 1, False)
        assert y.is_contiguous(memory_format=memory_format(layout))
        dweight = ops.conv2d_weight_gradient(x, y, weight, 1, 1, 1, 1, 1, 1, 1)
        assert_close(dweight, torch.nn.grad.conv2d_weight(x, weight.shape, y, padding=1), 1e-4)


def test_empty_batch(ops):
    x, weight = torch.empty(0, 4, 5, 5), torch.randn(3, 4, 3, 3)
    y = ops.conv2d(x, weight, None, 1, 1, 1, 1, 1, 1, 1, False)
    assert y.shape == (0, 3, 5, 5)
    assert not ops.conv2d_weight_gradient(x, y, weight, 1, 1, 1, 1, 1, 1, 1).any()
    assert ops.dropout(x, 0.5, 1, 0).shape == x.shape
    assert ops.max_pool2x2(x)[0].shape == (0, 4, 2, 2)


def test_optimizer_steps_are_torch_s(ops):
    shapes = [(5,), (3, 4, 3, 3), (1030,)]
    start, gradients = ([torch.randn(s) for s in shapes] for _ in range(2))

    def after(optimizer_class, step, steps=3, **options):
        reference = [torch.nn.Parameter(p.clone()) for p in start]
        optimizer = optimizer_class(reference, **options)
        ours = [p.clone() for p in start]
        for t in range(steps):
            for p, g in zip(reference, gradients, strict=True):
                p.grad = g.clone()
            optimizer.step()
            step(ours, t)
        for p, q in zip(ours, reference, strict=True):
            assert_close(p, q.detach(), 1e-6)

    buffers = [torch.empty_like(p) for p in start]
    after(
        torch.optim.SGD,
        lambda p, t: ops.sgd_step_(p, gradients, buffers, 0.1, 0.9, 0.0, 0.01, True, False, t == 0),
        lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True,
    )  # fmt: skip
    means, squares = ([torch.zeros_like(p) for p in start] for _ in range(2))
    counts = [torch.tensor(0.0) for _ in start]
    after(
        torch.optim.AdamW,
        lambda p, t: ops.adam_step_(
            p, gradients, means, squares, counts, 0.01, 0.9, 0.999, 1e-8, 0.1, True, False
        ),
        lr=0.01, weight_decay=0.1,
    )  # fmt: skip
    assert [c.item() for c in counts] == [3, 3, 3]


def test_accelerated_training_step(ops, monkeypatch):
    for module, names in {
        pyconvopt.autograd.norm: {
            "_forward": "batch_norm_forward",
            "_backward": "batch_norm_backward",
        },
        pyconvopt.autograd.pool: {
            "_max_pool2x2": "max_pool2x2",
            "_max_pool2x2_backward": "max_pool2x2_backward",
        },
    }.items():
        for own, operator in names.items():
            monkeypatch.setattr(module, own, getattr(ops, operator))
    layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU()]
    layers += [
        torch.nn.Conv2d(8, 8, 3),
        torch.nn.BatchNorm2d(8),
        torch.nn.Sigmoid(),  # else the pool would make what the norm leaves to it
        torch.nn.MaxPool2d(2),
    ]
    plain = torch.nn.Sequential(*layers)
    x, gradients = image((2, 3, 10, 10), "nhwc"), []
    for model in (plain, pco.accelerate(plain)):
        model.zero_grad()
        y = model(x)
        y.square().mean().backward()
        gradients.append([y.detach(), *(p.grad.clone() for p in model.parameters())])
    for ours, theirs in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_refuses(refusing):
    ops, x, w = refusing, torch.randn(2, 4, 6, 6), torch.randn(4, 4, 3, 3)
    vector = torch.randn(3)
    one = (1, 1, 0, 0, 1, 1, 1)
    norm = (True, 0.1, 1e-5, False)
    calls = {
        r"expected weight to be a contiguous vector of 4 elements, but got shape \[3\]": lambda: (
            ops.batch_norm_forward(x, vector, None, None, None, None, *norm, False, 0.0, 0, 0)
        ),
        "pool=True has no CUDA kernel": lambda: ops.batch_norm_forward(
            x, None, None, None, None, None, *norm, True, 0.0, 0, 0
        ),
        "expected residual in the same memory format": lambda: ops.batch_norm_forward(
            x,
            None,
            None,
            x.to(memory_format=torch.channels_last),
            None,
            None,
            *norm,
            False,
            0.0,
            0,
            0,
        ),
        "expected input of dtype float32, float16 or bfloat16": lambda: ops.max_pool2x2(x.double()),
        "expected input to be contiguous": lambda: ops.dropout(x[:, :, ::2], 0.5, 0, 0),
        "between 0 and 1, but got 1.5": lambda: ops.dropout(x, 1.5, 0, 0),
        "expected input of dtype float32, but got": lambda: ops.conv2d(
            x.half(), w, None, *one, False
        ),
        "expected input to have 4 channels": lambda: ops.conv2d(
            x[:, :3].contiguous(), w, None, *one, False
        ),
        "expected output_gradient of shape": lambda: ops.conv2d_weight_gradient(x, x, w, *one),
        "a depthwise convolution has no moments": lambda: ops.conv2d_moments(
            x, torch.randn(4, 1, 3, 3), None, 1, 1, 0, 0, 1, 1, 4
        ),
        r"expected moments of shape \[2, 2, 4\] without gaps, but got \[2, 1, 4\]": lambda: (
            ops.batch_norm_forward(
                x, None, None, None, None, None, *norm, False, 0.0, 0, 0, torch.zeros(2, 1, 4)
            )
        ),
        "channel_sum=True has no CUDA kernel": lambda: ops.max_pool2x2_backward(
            x, x.byte(), 12, 12, True
        ),
        "expected as many gradients as parameters": lambda: ops.sgd_step_(
            [x], [], [], 0.1, 0.0, 0.0, 0.0, False, False, False
        ),
    }
    for told, call in calls.items():
        with pytest.raises(RuntimeError, match=told):
            call()
