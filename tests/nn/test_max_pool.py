"""Max-pooling over windows of any size, also of a map that a batch norm leaves to it, beside torch's."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pyconvopt as pco
from pyconvopt import layers, models
from pyconvopt.functional.pool import LARGEST_WINDOW

from .helpers import assert_same, assert_same_step, kept_for_backward

OPS = torch.ops.pyconvopt
JOINED = "batch norm of its input in the same pass"
# kernel_size, stride, padding, dilation, return_indices, ceil_mode
WINDOWS = [
    (3, 2, 1), (3, 2), (3, 1, 1), ((2, 3), 1), ((5, 4), 3, 2), ((1, 3), (2, 1)), (2, 2, 1), (2, 3),
    (3, 2, 1, 1, False, True), (2, 2, 0, 1, False, True),
    (3, (2, 3), (0, 1), 1, False, True),
]  # fmt: skip
SHAPES = [
    (4, 32, 13, 13), (2, 64, 8, 8), (3, 35, 5, 7), (1, 37, 2, 2), (5, 33, 9, 4), (2, 130, 3, 3), (2, 5, 9, 8),
]  # fmt: skip
BY_TORCH = [(3, 2, 1, 2), (5, 1, 2), (17, 9)]


def image(*shape: int) -> torch.Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def kernels(model: nn.Module, x: torch.Tensor) -> set[str]:
    return {row["kernel"] for row in pco.explain(model, x).rows if row["op"] == "max_pool2d"}


@pytest.mark.parametrize("arguments", [*WINDOWS, *BY_TORCH], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_as_torchs(shape, arguments, isa):
    ours, theirs = pco.nn.MaxPool2d(*arguments), nn.MaxPool2d(*arguments)
    x = image(*shape)
    try:
        wanted = theirs(x)
    except RuntimeError as error:
        with pytest.raises(RuntimeError) as found:
            ours(x)
        assert str(found.value) == str(error)
        return
    assert torch.equal(ours(x), wanted)
    assert_same_step(ours, theirs, x, 1e-6)


@pytest.mark.parametrize("arguments", [(2,), (3, 2, 1)], ids=str)
@pytest.mark.parametrize("shape", [(32, 6, 7), (6, 7), (0, 32, 6, 7), (2, 0, 6, 7)], ids=str)
def test_other_dimensions_and_none(shape, arguments):
    x = torch.randn(shape)
    found = []
    for pool in (pco.nn.MaxPool2d(*arguments), nn.MaxPool2d(*arguments)):
        try:
            found.append(pool(x))
        except RuntimeError as error:
            found.append(torch.tensor(list(str(error).encode())))
    assert torch.equal(*found)


@pytest.mark.parametrize("arguments", [(2,), (3, 2, 1)], ids=str)
def test_compiles_in_one_graph(arguments):
    pool, x = pco.nn.MaxPool2d(*arguments), image(2, 32, 9, 9)
    compiled = torch.compile(pool, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), pool(x))
    assert torch.equal(torch.export.export(pool, (x,), strict=True).module()(x), pool(x))


@pytest.mark.parametrize("arguments", WINDOWS, ids=str)
def test_runs_on_the_kernel(arguments):
    pool, x = pco.nn.MaxPool2d(*arguments), image(2, 32, 13, 12)
    assert kernels(pool, x) == {"max_pool"}
    assert (
        kernels(pool, x.contiguous())
        == kernels(pool, x[:, :31].contiguous(memory_format=torch.channels_last))
        == {"torch"}
    )


@pytest.mark.parametrize("arguments", BY_TORCH, ids=str)
def test_other_windows_are_torchs(arguments):
    assert kernels(pco.nn.MaxPool2d(*arguments), image(1, 4, 20, 21)) == {"torch"}


def test_the_largest_window():
    side = int(LARGEST_WINDOW**0.5)
    pool, x = pco.nn.MaxPool2d(side, side, 3), image(2, 33, 40, 41)
    assert kernels(pool, x) == {"max_pool"}
    assert_same_step(pool, nn.MaxPool2d(side, side, 3), x, 1e-6)


def test_ties_nan_and_infinities():
    x = torch.randint(0, 3, (2, 39, 11, 10)).float()  # the first of equals
    x[0, 0, 2, 2] = x[0, 1, 4, 4] = x[0, 1, 4, 5] = float("nan")
    x[0, 2], x[0, 3] = float("-inf"), float("inf")
    x = x.contiguous(memory_format=torch.channels_last)
    results = []
    for pool in (pco.nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(3, 2, 1)):
        leaf = x.clone().requires_grad_()
        y = pool(leaf)
        y.backward(torch.arange(float(y.numel())).view(y.shape))
        results.append((y.detach(), leaf.grad))
    for ours, wanted in zip(*results, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=0, equal_nan=True)


def test_keeps_a_byte_an_output():
    x = image(2, 32, 9, 9).requires_grad_()
    y, kept = kept_for_backward(lambda: pco.nn.MaxPool2d(3, 2, 1)(x))
    assert kept == [y.numel()]


def test_gradient_of_the_gradient_and_batches_of_gradients():
    x = image(2, 32, 7, 6).requires_grad_()
    results = []
    for pool in (pco.nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(3, 2, 1)):
        y = pool(x)
        (g,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(g.square().sum(), x)
        several = torch.stack([torch.ones_like(y), torch.cos(y.detach())])
        (batch,) = torch.autograd.grad(pool(x), x, several, is_grads_batched=True)
        results.append((second, batch))
    for ours, wanted in zip(*results, strict=True):
        assert_same(ours, wanted, 1e-6)


def test_thread_count_changes_no_bit():
    x = image(3, 24, 40, 37)
    g = torch.randn_like(F.max_pool2d(x, 3, 2, 1))
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        y, argmax = OPS.max_pool2d(x, None, None, None, None, 0, *g.shape[2:], 3, 3, 2, 2, 1, 1)
        dx = OPS.max_pool2d_backward(g, argmax, 40, 37, 3, 3, 2, 2, 1, 1)
        results.append((y, argmax, dx))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ((4, 4, 3, 3, 0, 2, 1, 1), "stride of at least 1"),
        ((4, 4, 3, 3, 2, 2, 2, 1), "padding of at most half the kernel, but got 3, 2 and 2"),
        ((5, 4, 3, 3, 2, 2, 1, 1), "5 windows do not begin within a height of 7"),
        ((1, 1, 17, 16, 9, 9, 0, 0), "windows of at most 256 pixels, but got 17 x 16"),
    ],
    ids=str,
)
def test_the_operators_refuse(windows, message):
    x = image(1, 4, 7, 7)
    with pytest.raises(RuntimeError, match=message):
        OPS.max_pool2d(x, None, None, None, None, 0, *windows)
    y = image(1, 4, *windows[:2])
    argmax = torch.zeros_like(y, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match=message):
        OPS.max_pool2d_backward(y, argmax, 7, 7, *windows[2:])
    with pytest.raises(RuntimeError, match="belong to a norm of the input"):
        OPS.max_pool2d(x, torch.ones(4), None, None, None, 0, 4, 4, 3, 3, 2, 2, 1, 1)
    with pytest.raises(RuntimeError, match="argmax of dtype uint8"):
        OPS.max_pool2d_backward(y, y, 7, 7, *windows[2:])


# --- behind a batch norm ----------------------------------------------------------------------------


class Stem(nn.Module):
    """The beginning of a ResNet; the pool as a layer or as a function."""

    def __init__(self, activation: nn.Module | None = None, function: bool = False) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 32, 7, 2, 3, bias=False), nn.BatchNorm2d(32)
        self.activation = activation or nn.Identity()
        self.pool = (lambda x: F.max_pool2d(x, 3, 2, 1)) if function else nn.MaxPool2d(3, 2, 1)

    def forward(self, x):
        return self.pool(self.activation(self.norm(self.conv(x))))


def step(model: nn.Module, x: torch.Tensor, recompute: bool = True) -> list[torch.Tensor]:
    """Result, gradients and buffers after a step of a copy."""
    model, x = copy.deepcopy(model), x.clone().requires_grad_()
    with pco.settings(recompute=recompute):
        y = model(x)
        y.square().mul(0.5).sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in model.parameters()), *model.buffers()]


@pytest.mark.parametrize("function", [False, True], ids=["layer", "function"])
@pytest.mark.parametrize(
    "activation", [None, nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardswish()], ids=str
)
def test_the_map_between_is_not_stored(activation, function, isa):
    model = Stem(activation, function)
    fast, x = pco.accelerate(model), image(4, 3, 40, 38)
    reasons = [row["reason"] for row in pco.explain(fast, x).rows if row["op"] == "max_pool2d"]
    assert reasons and all(JOINED in reason for reason in reasons)
    unstored, stored = step(fast, x), step(fast, x, recompute=False)
    assert all(torch.equal(a, b) for a, b in zip(unstored, stored, strict=True))
    for ours, wanted in zip(unstored, step(model.double(), x.double()), strict=True):
        assert_same(ours.double(), wanted.double(), 2e-4)


def test_what_a_stem_keeps():
    """Input, what the convolution gave and a byte for each pooled element: no map of the norm's."""
    fast, x = pco.accelerate(Stem(nn.ReLU())), image(4, 3, 64, 64)
    y, kept = kept_for_backward(lambda: fast(x))
    maps = sorted(size for size in kept if size >= y.numel())
    assert maps == [y.numel(), x.nbytes, 4 * y.nbytes]


def test_a_pool_as_a_function_runs_on_the_kernel():
    class Branches(nn.Module):
        def forward(self, x):
            return F.max_pool2d(x, 2) + torch.max_pool2d(x, 3, stride=2, padding=1)

    x = image(2, 32, 12, 12)
    fast = pco.accelerate(Branches())
    assert kernels(fast, x) == {"max_pool", "max_pool2x2"}
    assert torch.equal(fast(x), Branches()(x))


def test_others_see_the_map():
    """A second reader, a hook on the pool, evaluation: the pool reads a map that is stored."""

    class Twice(Stem):
        def forward(self, x):
            y = self.norm(self.conv(x))
            return self.pool(y).mean() + y.mean()

    x = image(2, 3, 20, 20)
    twice, hooked = pco.accelerate(Twice()), pco.accelerate(Stem())
    seen = []
    hooked.pool.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    for model in (twice, hooked, pco.accelerate(Stem()).eval()):
        rows = [row for row in pco.explain(model, x).rows if row["op"] == "max_pool2d"]
        assert rows and not any(JOINED in row["reason"] for row in rows)
    assert seen and all(float(map.detach().abs().sum()) > 0 for map in seen)


@pytest.mark.parametrize("indices", [False, True])
def test_the_order_of_memory_stays_torchs(indices):
    """A model in torch's order whose pool's result is viewed; pools by other names, or with indices."""

    class Viewed(Stem):
        def forward(self, x):
            y = self.norm(self.conv(x))
            if indices:
                y, _ = F.max_pool2d(y, 3, 2, 1, 1, False, True)
            else:
                y = torch.max_pool2d(y, 3, 2, 1)
            return y.view(len(y), -1)

    model, x = Viewed(), torch.randn(2, 3, 20, 20)
    assert_same_step(pco.accelerate(copy.deepcopy(model)), model, x, 1e-3)


def test_gradient_of_the_gradient_of_a_stem():
    model, x = Stem(nn.ReLU()), image(2, 3, 14, 14)

    def twice(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(model(x).pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(g.pow(3).sum(), x)[0]

    ours, wanted = twice(pco.accelerate(model), x), twice(model.double(), x.double())
    assert (ours - wanted).norm() <= 1e-3 * wanted.norm()


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_sequential(padding):
    model = models.Sequential(
        [
            layers.Conv2D(32, 3, input_shape=(21, 21, 3), use_bias=False), layers.BatchNormalization(),
            layers.ReLU(), layers.MaxPooling2D(3, 2, padding=padding), layers.Conv2D(16, 3),
        ]
    ).train()  # fmt: skip
    x = torch.rand(4, 21, 21, 3)
    rows = [row for row in pco.explain(model, x).rows if row["op"] == "max_pool2d"]
    assert rows and all(JOINED in row["reason"] for row in rows)
    unstored, stored = step(model, x), step(model, x, recompute=False)
    assert all(torch.equal(a, b) for a, b in zip(unstored, stored, strict=True))
