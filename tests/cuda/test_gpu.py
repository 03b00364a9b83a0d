"""On a real GPU, with the plug-in: operators beside torch, graph capture, streams, training."""

from __future__ import annotations

import pytest
import torch

import pyconvopt as pco
from pyconvopt import _C
from pyconvopt import functional as F

MISSING = "torch sees no CUDA GPU" if not torch.cuda.is_available() else _C.cuda_problem(0)
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(MISSING), reason=MISSING)]
BOUNDS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


@pytest.fixture(autouse=True)
def _plain_float32():
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


def random(*shape, dtype=torch.float32, order=torch.contiguous_format, gradient=False):
    x = torch.randn(shape, device="cuda").to(dtype)
    x = x.contiguous(memory_format=order) if x.dim() == 4 else x
    return x.requires_grad_(gradient)


def assert_close(ours, wanted, bound):
    error = (ours.double() - wanted.double()).abs().max()
    assert error <= bound * wanted.double().abs().max().clamp_min(1e-30)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("order", FORMATS)
@pytest.mark.parametrize("shape", [(8, 64, 28, 28), (3, 37, 5, 7), (2, 1030, 4, 4)], ids=str)
def test_batch_norm_residual_relu(shape, order, dtype):
    x, residual = (
        random(*shape, dtype=dtype, order=FORMATS[order], gradient=True) for _ in range(2)
    )
    weight, bias = random(shape[1], gradient=True), random(shape[1], gradient=True)
    inputs = [x, residual, weight, bias]
    doubles = [t.detach().double().requires_grad_() for t in inputs]
    y = F.batch_norm(x, None, None, weight, bias, True, activation="relu", residual=residual)
    wanted = torch.nn.functional.batch_norm(doubles[0], None, None, *doubles[2:], True)
    wanted = (wanted + doubles[1]).relu()
    g = random(*shape, dtype=dtype)
    # An element that rounding moves across 0 would get another gradient.
    g = torch.where(wanted.abs() < 1e-2, 0, g).to(dtype)
    assert_close(y, wanted, BOUNDS[dtype])
    assert y.stride() == x.stride()
    y.backward(g)
    wanted.backward(g.double())
    for ours, theirs in zip(inputs, doubles, strict=True):
        assert_close(ours.grad, theirs.grad, BOUNDS[dtype])


@pytest.mark.parametrize("shape", [(1_000_003,), (4, 64, 31, 33)], ids=str)
def test_dropout_masks_are_the_cpu_s(shape):
    x = torch.randn(shape)
    for operator in ("dropout", "dropout_channels") if x.dim() == 4 else ("dropout",):
        x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
        call = getattr(torch.ops.pyconvopt, operator)
        assert torch.equal(call(x.cuda(), 0.3, 12345, 7).cpu(), call(x, 0.3, 12345, 7))


@pytest.mark.parametrize("order", FORMATS)
def test_max_pool(order):
    x = random(4, 32, 15, 16, order=FORMATS[order], gradient=True)
    x2 = x.detach().clone().requires_grad_()
    y, wanted = F.max_pool2d(x, 2), torch.nn.functional.max_pool2d(x2, 2)
    g = torch.randn_like(wanted)
    y.backward(g)
    wanted.backward(g)
    assert torch.equal(y, wanted) and torch.equal(x.grad, x2.grad)


@pytest.mark.parametrize("groups", [1, 2, 32])
@pytest.mark.parametrize("order", FORMATS)
def test_native_convolution(order, groups):
    x = random(4, 32, 17, 19, order=FORMATS[order], gradient=True)
    weight, bias = random(32, 32 // groups, 3, 3, gradient=True), random(32, gradient=True)
    doubles = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    with pco.settings(cuda_conv="native"):
        y = F.conv2d(x, weight, bias, 2, 1, groups=groups)
        wanted = torch.nn.functional.conv2d(*doubles, 2, 1, groups=groups)
        g = torch.randn_like(wanted)
        y.backward(g.float())
    wanted.backward(g)
    assert_close(y, wanted, 1e-5)
    for ours, theirs in zip((x, weight, bias), doubles, strict=True):
        assert_close(ours.grad, theirs.grad, 1e-5)


@pytest.mark.parametrize(("name", "options"), [("SGD", {"momentum": 0.9}), ("AdamW", {})])
def test_optimizers(name, options):
    start = [random(1000), random(8, 4, 3, 3, order=torch.channels_last), random(3)]
    runs = []
    for library in (pco.optimizers, torch.optim):
        parameters = [torch.nn.Parameter(p.clone()) for p in start]
        optimizer = getattr(library, name)(parameters, lr=0.01, weight_decay=0.1, **options)
        for step in range(3):
            for p, s in zip(parameters, start, strict=True):
                p.grad = s * (step - 1.5)
            optimizer.step()
        runs.append(parameters)
    for ours, theirs in zip(*runs, strict=True):
        assert_close(ours.detach(), theirs.detach(), 1e-6)


def network():
    layers = [torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU()]
    layers += [torch.nn.Conv2d(16, 16, 3, groups=16), torch.nn.BatchNorm2d(16), torch.nn.ReLU()]
    layers += [torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(16 * 7 * 7, 10)]
    return torch.nn.Sequential(*layers).cuda()


def test_accelerated_training_step_is_torch_s():
    plain = network()
    x, labels = random(8, 3, 16, 16), torch.arange(8, device="cuda")
    losses, gradients = [], []
    for model in (plain, pco.accelerate(plain)):
        model.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        losses.append(loss.detach())
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert_close(losses[1], losses[0], 1e-5)
    for ours, theirs in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_captured_graph_replays():
    model = pco.accelerate(network())
    x = random(8, 3, 16, 16)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):  # what is allocated at first is allocated here
        for _ in range(3):
            model(x).sum().backward()
    torch.cuda.current_stream().wait_stream(side)
    model.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = model(x)
        y.sum().backward()
    x.copy_(random(8, 3, 16, 16))
    graph.replay()
    torch.testing.assert_close(y, model(x), rtol=1e-4, atol=1e-5)


def test_dropout_in_a_graph_draws_anew():
    x = torch.ones(10000, device="cuda")
    F.dropout(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = F.dropout(x)
    graph.replay()
    first = y.clone()
    graph.replay()
    assert not torch.equal(first, y)


def test_work_goes_to_the_current_stream():
    x = random(64, 256, 56, 56)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        doubled = x * 2
        y = torch.ops.pyconvopt.dropout(doubled, 0.0, 0, 0)
    stream.synchronize()
    assert torch.equal(y, x * 2)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_second_device_while_the_first_is_current():
    x = random(4, 8, 6, 6).to("cuda:1")
    y = F.batch_norm(x, None, None, training=True)
    assert y.device == x.device and torch.cuda.current_device() == 0
    assert_close(y, torch.nn.functional.batch_norm(x.double(), None, None, training=True), 1e-5)


def test_autocast():
    model = pco.accelerate(network())
    with torch.autocast("cuda", torch.bfloat16):
        loss = model(random(8, 3, 16, 16)).float().square().mean()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(
    ("operator", "arguments"),
    [("dropout", (0.3, 5, 0)), ("max_pool2x2", ())],
)
def test_opcheck(operator, arguments):
    torch.library.opcheck(
        getattr(torch.ops.pyconvopt, operator).default, (random(2, 4, 6, 6), *arguments)
    )
