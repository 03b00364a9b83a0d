"""The gradient between a 1×1 or depthwise convolution and its batch norm, made while both gradients read."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import pyconvopt as pco
from pyconvopt import _C, layers, models
from pyconvopt.autograd import conv as autograd
from pyconvopt.autograd import norm
from pyconvopt.autograd.handover import Sums

ops = torch.ops.pyconvopt
HYPER = (1, 1, 0, 0, 1, 1, 1)
ACTIVATIONS = (None, "relu", "relu6", "hardswish")


def image(*shape: int) -> torch.Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


class Block(nn.Module):
    """Expansion and projection with a residual: three batch norms, two of them behind a 1×1 convolution."""

    def __init__(self, activation: nn.Module, bias: bool = False) -> None:
        super().__init__()
        self.before = nn.BatchNorm2d(24)
        self.expand, self.norm = nn.Conv2d(24, 72, 1, bias=bias), nn.BatchNorm2d(72)
        self.activation = activation
        self.project, self.last = nn.Conv2d(72, 24, 1, bias=bias), nn.BatchNorm2d(24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.before(x))
        y = self.project(self.activation(self.norm(self.expand(y))))
        return torch.relu(self.last(y) + x)


BLOCKS = {
    "relu": nn.ReLU(),
    "relu6": nn.ReLU6(),
    "hardswish": nn.Hardswish(),
    "none": nn.Identity(),
}


def run(model: nn.Module, x: torch.Tensor, recompute: bool = True) -> list[torch.Tensor | None]:
    """Result and gradients of a copy."""
    model, x = copy.deepcopy(model), x.clone().requires_grad_()
    with pco.settings(recompute=recompute):
        y = model(x)
        (0.5 * y.square().sum()).backward()
    return [y.detach(), x.grad, *(p.grad for p in model.parameters())]


@pytest.fixture
def handed(monkeypatch) -> list[tuple[int, ...]]:
    """The weights' shapes of the convolutions that took both gradients in one pass."""
    found: list[tuple[int, ...]] = []

    def counted(*arguments):
        found.append(tuple(arguments[15].shape))
        return ops.conv2d_gradients(*arguments)

    monkeypatch.setattr(autograd, "_gradients", counted)
    return found


@pytest.mark.parametrize("name", BLOCKS)
def test_the_same_to_the_bit(name, isa, handed):
    model, x = pco.accelerate(Block(BLOCKS[name])), image(4, 24, 33, 34)
    unmade = run(model, x)
    assert handed == [(24, 72, 1, 1), (72, 24, 1, 1)]
    made = run(model, x, recompute=False)
    assert len(handed) == 2
    assert all(torch.equal(a, b) for a, b in zip(unmade, made, strict=True))


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1)])
def test_depthwise_the_same_to_the_bit(kernel, stride, isa, handed):
    """Behind a norm, whose result it makes too, and behind a stored map."""
    convolution = nn.Conv2d(40, 40, kernel, stride, kernel // 2, groups=40, bias=False)
    model = nn.Sequential(
        nn.BatchNorm2d(40), nn.Hardswish(), convolution, nn.BatchNorm2d(40), nn.ReLU6(),
        nn.AvgPool2d(1), copy.deepcopy(convolution), nn.BatchNorm2d(40),
    )  # fmt: skip
    fast, x = pco.accelerate(model), image(6, 40, 35 * stride, 33 * stride)
    unmade = run(fast, x)
    assert handed == [(40, 1, kernel, kernel)] * (3 - stride)  # the last map has few pixels left
    made = run(fast, x, recompute=False)
    assert len(handed) == 3 - stride
    assert all(torch.equal(a, b) for a, b in zip(unmade, made, strict=True))


@pytest.mark.parametrize("name", BLOCKS)
def test_against_torch(name, handed):
    model, x = Block(BLOCKS[name]), image(4, 24, 33, 34)
    ours, wanted = run(pco.accelerate(model), x), run(model.double(), x.double())
    assert len(handed) == 2
    for a, b in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=2e-4, atol=2e-4 * float(b.abs().max() + 1))


def test_sequential(handed):
    model = models.Sequential(
        [
            layers.Conv2D(16, 3, padding="same", use_bias=False, input_shape=(32, 32, 3)),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(48, 1, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(24, 1, use_bias=False),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
        ]
    )
    x = torch.randn(4, 32, 32, 3)
    unmade = run(model, x)
    assert handed == [(24, 48, 1, 1)]  # fewer than 24 channels are torch's
    assert all(
        torch.equal(a, b) for a, b in zip(unmade, run(model, x, recompute=False), strict=True)
    )


@pytest.mark.parametrize("frozen", ["expand", "norm", "before", "last"])
def test_frozen_parts(frozen, handed):
    model, x = pco.accelerate(Block(nn.ReLU())), image(4, 24, 33, 34)
    getattr(model, frozen).requires_grad_(False)
    unmade = run(model, x)
    assert len(handed) == (1 if frozen == "expand" else 2)
    made = run(model, x, recompute=False)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(unmade, made, strict=True))


def test_not_where_it_would_not_do(handed):
    """A bias has a gradient of its own, few pixels have no such kernel, evaluation no statistics."""
    x = image(4, 24, 33, 34)
    run(pco.accelerate(Block(nn.ReLU(), bias=True)), x)
    run(
        pco.accelerate(Block(nn.ReLU())),
        x[:, :, :8, :8].contiguous(memory_format=torch.channels_last),
    )
    run(pco.accelerate(Block(nn.ReLU())).eval(), x)
    run(pco.accelerate(Block(nn.ReLU())).double(), x.double())
    assert not handed


def test_a_batch_norm_behind_a_batch_norm(handed):
    """The second reads what the first made, not the convolution's output."""
    norms = nn.BatchNorm2d(72), nn.ReLU(), nn.BatchNorm2d(72), nn.ReLU()
    model, x = nn.Sequential(nn.Conv2d(24, 72, 1, bias=False), *norms), image(4, 24, 33, 34)
    fast = pco.accelerate(model)
    unmade, made = run(fast, x), run(fast, x, recompute=False)
    assert len(handed) == 1
    assert all(torch.equal(a, b) for a, b in zip(unmade, made, strict=True))
    # Of the norms' own gradients the second cancels almost all of the first's.
    for a, b in list(zip(unmade, run(model.double(), x.double()), strict=True))[:3]:
        torch.testing.assert_close(a.double(), b, rtol=2e-4, atol=2e-4 * float(b.abs().max() + 1))


def test_backward_again(handed):
    """Twice through one graph, some of it between, and the gradient of a gradient."""
    model, x = pco.accelerate(Block(nn.ReLU())), image(4, 24, 33, 34).requires_grad_()
    y = model(x).square().sum()
    first = torch.autograd.grad(y, [x, *model.parameters()], retain_graph=True)
    # The norm alone: what it leaves for the convolution is not fetched.
    (gamma,) = torch.autograd.grad(y, model.norm.weight, retain_graph=True)
    second = torch.autograd.grad(y, [x, *model.parameters()], retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(
        gamma, first[1 + [name for name, _ in model.named_parameters()].index("norm.weight")]
    )
    (g,) = torch.autograd.grad(y, x, create_graph=True)
    torch.testing.assert_close(g, first[0], rtol=1e-3, atol=1e-3 * float(g.detach().abs().max()))
    assert torch.isfinite(torch.autograd.grad(g.square().sum(), x)[0]).all()
    assert len(handed) >= 4


def test_gradients_that_come_beside_it():
    """Whoever reads the convolution's output too, the sum is right."""
    from pyconvopt import functional
    from pyconvopt.autograd.handover import offer

    x, w = image(4, 24, 33, 34).requires_grad_(), (torch.randn(32, 24, 1, 1) / 5).requires_grad_()

    def gradients(offered: bool) -> tuple[torch.Tensor, ...]:
        y, moments = functional.conv2d_moments(x, w)
        if offered:
            offer(y)
        normalized = functional.batch_norm(
            y, None, None, training=True, activation="relu", moments=moments
        )
        return torch.autograd.grad(normalized.square().sum() + y.square().sum(), (x, w))

    for ours, wanted in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("activation", range(4), ids=map(str, ACTIVATIONS))
@pytest.mark.parametrize(
    "size", [(1, 8, 64, 64, 9), (3, 17, 37, 38, 40), (2, 72, 50, 41, 25)], ids=str
)
def test_kernel(size, activation, isa):
    """Against the reference in double, of plain and normalised inputs; three threads change no bit."""
    batch, inputs, height, width, outputs = size
    x, map = image(batch, inputs, height, width), image(batch, outputs, height, width)
    g, w = image(batch, outputs, height, width), torch.randn(outputs, inputs, 1, 1) / 4
    problem = (*x.shape, outputs, (1, 1), (1, 1), (0, 0), (1, 1), 1)
    kernel, _ = _C.choose_conv("gradients", *problem)
    assert kernel == ("reference" if isa == "reference" else "pointwise")

    def norm(channels: int) -> list[torch.Tensor]:
        vectors = [torch.rand(channels) + 0.5, torch.randn(channels), torch.randn(channels)]
        return [*vectors, torch.rand(channels) + 0.5]

    for read in ([*norm(inputs), 1], [None, None, None, None, 0]):
        arguments = x, *read, g, map, *norm(outputs), activation, torch.randn(2, outputs).unbind()
        flat = (*arguments[:-1], *arguments[-1], w, *HYPER)
        found = ops.conv2d_gradients(*flat)
        torch.set_num_threads(3)
        again = ops.conv2d_gradients(*flat)
        assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
        with pco.settings(isa="reference"):
            wanted = ops.conv2d_gradients(*flat)
        assert len(found[2]) == len(found[3]) == (inputs if read[2] is not None else 0)
        for ours, exact, bound in zip(found, wanted, (2e-5, 1e-4, 1e-4, 1e-4), strict=True):
            if not ours.numel():
                continue
            error = (ours - exact).abs().max() / exact.square().mean().sqrt()
            assert error <= bound, f"{float(error):.1e} of the RMS"


def depthwise(channels: int) -> nn.Module:
    convolution = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False)
    return nn.Sequential(
        nn.BatchNorm2d(channels), nn.ReLU6(), convolution, nn.BatchNorm2d(channels),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "size", "summed"),
    [(Block(nn.ReLU6()), (4, 24, 33, 34), 1), (depthwise(40), (6, 40, 32, 32), 1)],
    ids=["pointwise", "depthwise"],
)
def test_sums_of_the_norm_in_front(model, size, summed, monkeypatch, isa):
    """The convolution leaves them: the norm passes over no map; the same bits as if it had."""
    found = []

    def counted(g, x, *others):
        found.append(x.shape[1])
        return ops.batch_norm_backward(g, x, *others)

    monkeypatch.setattr(norm, "_backward", counted)
    fast, x = pco.accelerate(model), image(*size)
    left = run(fast, x)
    assert len(found) == summed
    monkeypatch.setattr(Sums, "take", lambda self, g: None)
    alone = run(fast, x)
    assert len(found) == summed + sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert all(torch.equal(a, b) for a, b in zip(left, alone, strict=True))


@pytest.mark.parametrize(
    ("width", "stride"), [(32, 1), (48, 2), (31, 1), (33, 2)], ids=lambda v: str(v)
)
def test_sums_to_the_bit_of_any_width(width, stride, isa):
    """Whether a thread's rows are whole pieces of the sums or not, and on any number of threads."""
    model = pco.accelerate(depthwise(16))
    convolution = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    convolution.stride = (stride, stride)
    x = image(20, 16, 40, width)
    wanted = run(model, x, recompute=False)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assert all(torch.equal(a, b) for a, b in zip(run(model, x), wanted, strict=True))


def test_sums_are_of_the_gradient_that_comes():
    """Not of one that was changed, replaced or added to meanwhile."""
    g, sums = image(2, 8, 4, 4), (torch.ones(8), torch.zeros(8))

    def taken(change) -> bool:
        box = Sums()
        box.leave(g, *sums)
        found = box.take(change(g))
        assert box.take(g) is None
        return found is not None

    assert taken(lambda g: g)
    assert not taken(lambda g: g * 2)
    assert not taken(lambda g: g.mul_(2))
    assert not taken(lambda g: g.mT)
    assert Sums().take(g) is None


def test_a_hook_between_convolution_and_norm(handed):
    """Its gradient counts, also where it replaces what the convolution summed up."""
    model, x = Block(nn.ReLU()), image(4, 24, 33, 34)

    def run_hooked(model: nn.Module) -> torch.Tensor:
        model = copy.deepcopy(model)
        y = model(x)
        seen, todo = set(), [y.grad_fn]
        while todo:
            node = todo.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if "Norm" in type(node).__name__ and "Conv" not in type(node).__name__:
                node.register_prehook(lambda gs: (gs[0] * 3, *gs[1:]))
            todo += [next_node for next_node, _ in node.next_functions]
        y.square().mean().backward()
        return model.norm.weight.grad

    ours, wanted = run_hooked(pco.accelerate(model)), run_hooked(model)
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_bad_input():
    x, z, w = image(1, 8, 4, 4), image(1, 16, 4, 4), torch.randn(16, 8, 1, 1)
    v8, v16 = torch.ones(8), torch.ones(16)
    plain, sums = (None, None, None, None, 0), (v16, v16)

    def call(x=x, read=plain, g=z, z=z, norm=(v16, v16, v16, v16, 0), sums=sums):
        return ops.conv2d_gradients(x, *read, g, z, *norm, *sums, w, *HYPER)

    assert [t.shape for t in call()] == [x.shape, w.shape, (0,), (0,)]
    for wrong in (
        {"z": image(1, 16, 4, 5)},
        {"sums": (v8, v16)},
        {"norm": (v8, v16, v16, v16, 0)},
        {"norm": (v16, v16, v16, v16, 9)},
        {"read": (None, None, v8, None, 0)},
        {"g": image(1, 8, 4, 4)},
        {"x": x.contiguous(memory_format=torch.contiguous_format).double()},
    ):
        with pytest.raises(RuntimeError, match="conv2d_gradients"):
            call(**wrong)
    empty = call(x=x[:0], g=z[:0], z=z[:0])
    assert empty[0].shape == (0, 8, 4, 4) and not np.any(empty[1].numpy())
