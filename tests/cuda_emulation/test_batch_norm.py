"""Fused batch norm on the emulated GPU beside torch in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from tests.cuda_emulation.maps import (
    BOUNDS,
    LAYOUTS,
    TYPES,
    assert_close,
    image,
    memory_format,
    shape_of,
    unset,
)

# Channels below, at and beyond vectors and blocks; odd maps; one row more than a chunk; many images.
SHAPES = [
    (3, 37, 5, 7),
    (2, 64, 8, 8),
    (5, 1, 9, 3),
    (2, 130, 2, 3),
    (7, 16, 11, 12),
    (9, 3, 16, 16),
]
OPTIONS = [
    {"relu": relu, "p": p, "residual": residual}
    for relu, p, residual in itertools.product((0, 1), (0.0, 0.3), (0, 1))
]
KEY = {"seed": 7, "offset": 3}


def name(options):
    return "+".join(k for k, v in options.items() if v) or "plain"


class Problem:
    """Inputs of one batch norm, and what torch makes of them in float64."""

    def __init__(self, shape, layout, dtype, options, training, shift=3.0, plain=False):
        c = shape[1]
        self.layout, self.options, self.training, self.shape = layout, options, training, shape
        self.x = image(shape, layout, dtype, 2, shift)
        self.weight, self.bias = (None, None) if plain else (torch.randn(c), torch.randn(c))
        self.residual = image(shape, layout, dtype) if options["residual"] else None
        self.gradient = image(shape, layout, dtype)
        self.running = torch.randn(c), torch.rand(c) + 0.5
        self.mask = torch.ops.pyconvopt.dropout(
            torch.ones(shape).contiguous(memory_format=memory_format(layout)).permute(self.order).reshape(-1),
            options["p"], KEY["seed"], KEY["offset"],
        )  # fmt: skip
        self.mask = self.mask.view([shape[i] for i in self.order]).permute(self.back)

    order = property(lambda self: (0, 2, 3, 1) if self.layout == "nhwc" else (0, 1, 2, 3))
    back = property(lambda self: (0, 3, 1, 2) if self.layout == "nhwc" else (0, 1, 2, 3))

    def forward(self, library):
        """Output, saved mean, saved invstd; the running statistics are updated."""
        c = self.shape[1]
        y = unset(self.shape, self.layout, self.x.dtype)
        saved = torch.full((c,), float("nan")), torch.full((c,), float("nan"))
        fields = {"weight": self.weight, "bias": self.bias, "residual": self.residual}
        library.run(
            "batch_norm_forward",
            shape=shape_of(self.x, self.layout), input=self.x,
            training=self.training, relu=self.options["relu"], output=y,
            running_mean=self.running[0], running_variance=self.running[1], momentum=0.1, epsilon=1e-5,
            dropout={"probability": self.options["p"], **KEY}, saved_mean=saved[0], saved_invstd=saved[1],
            **{k: v for k, v in fields.items() if v is not None},
        )  # fmt: skip
        return y, *saved

    def backward(self, library, saved, output):
        """Gradients of input, residual, weight and bias."""
        c = self.shape[1]
        dx = unset(self.shape, self.layout, self.x.dtype)
        dr = unset(self.shape, self.layout, self.x.dtype) if self.residual is not None else None
        dw, db = torch.full((c,), float("nan")), torch.full((c,), float("nan"))
        fields = {
            "output": output,
            "weight": self.weight,
            "bias": self.bias,
            "residual_gradient": dr,
        }
        library.run(
            "batch_norm_backward",
            shape=shape_of(self.x, self.layout), output_gradient=self.gradient, input=self.x,
            saved_mean=saved[0], saved_invstd=saved[1], training=self.training, relu=self.options["relu"],
            dropout={"probability": self.options["p"], **KEY},
            input_gradient=dx, weight_gradient=dw, bias_gradient=db,
            **{k: v for k, v in fields.items() if v is not None},
        )  # fmt: skip
        return dx, dr, dw, db

    def wanted(self):
        """Output, running statistics, gradients of input, residual, weight, bias."""
        c = self.shape[1]
        x = self.x.double().requires_grad_()
        weight = (torch.ones(c) if self.weight is None else self.weight).double().requires_grad_()
        bias = (torch.zeros(c) if self.bias is None else self.bias).double().requires_grad_()
        residual = None if self.residual is None else self.residual.double().requires_grad_()
        running = [r.double() for r in self.running]
        y = F.batch_norm(x, *running, weight, bias, self.training, 0.1, 1e-5)
        if residual is not None:
            y = y + residual
        if self.options["relu"]:
            y = F.relu(y)
        y = y * self.mask.double()
        y.backward(self.gradient.double())
        return (
            y.detach(),
            running,
            x.grad,
            residual.grad if residual is not None else None,
            weight.grad,
            bias.grad,
        )


def assert_sums_close(ours, wanted, problem):
    """Sums over rows of either sign: against what so many terms come to, which may cancel."""
    terms = problem.x[:, 0].numel() ** 0.5
    assert_close(ours, wanted, 1e-5 * max(1.0, terms / wanted.abs().max().item()))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [*((s, torch.float32) for s in SHAPES), *itertools.product(SHAPES[:2], list(TYPES)[1:])],
    ids=str,
)
@pytest.mark.parametrize("options", OPTIONS, ids=name)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_batch_norm(cuda, training, layout, options, shape, dtype):
    problem = Problem(shape, layout, dtype, options, training)
    wanted, running, *gradients = problem.wanted()
    output, *saved = problem.forward(cuda)
    assert_close(output, wanted)
    assert_close(problem.running[0], running[0], 1e-6)
    assert_close(problem.running[1], running[1], 2e-6)
    # The output tells where ReLU stopped; without a residual the input does as well.
    for told in (output, *([None] if problem.residual is None else [])):
        dx, dr, dw, db = problem.backward(cuda, saved, told)
        assert_close(dx, gradients[0], max(2e-5, BOUNDS[dtype]))
        if dr is not None:
            assert_close(dr, gradients[1])
        assert_sums_close(dw, gradients[2], problem)
        assert_sums_close(db, gradients[3], problem)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_many_chunks_without_checks(fast_cuda, layout):
    """More rows than a block's first turn, more chunks than the second stage has threads."""
    problem = Problem((9, 12, 64, 60), layout, torch.float32, OPTIONS[-1], True)
    wanted, _, *gradients = problem.wanted()
    output, *saved = problem.forward(fast_cuda)
    assert_close(output, wanted)
    for ours, theirs in zip(problem.backward(fast_cuda, saved, output), gradients, strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_mean_large_against_the_deviation(cuda, layout):
    problem = Problem((4, 8, 9, 9), layout, torch.float32, OPTIONS[0], True, shift=3000.0)
    assert_close(problem.forward(cuda)[0], problem.wanted()[0], 1e-4)  # the input's own rounding


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_weight_and_bias(cuda, layout):
    problem = Problem(
        (2, 6, 5, 4), layout, torch.float32, {"relu": 1, "p": 0.0, "residual": 0}, True, plain=True
    )
    wanted, _, dx, *_ = problem.wanted()
    output, *saved = problem.forward(cuda)
    assert_close(output, wanted)
    assert_close(problem.backward(cuda, saved, None)[0], dx, 2e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_bits_in_any_order_of_blocks(cuda, layout):
    problem = Problem((7, 16, 12, 12), layout, torch.float32, OPTIONS[-1], True)
    seen = []
    for seed in range(3):
        cuda.c.emulation_seed(seed)
        output, *saved = problem.forward(cuda)
        seen.append((output, *saved, *problem.backward(cuda, saved, output)))
    assert all(torch.equal(a, b) for other in seen[1:] for a, b in zip(seen[0], other, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(8, 64, 16, 16), (4, 128, 8, 8)], ids=str)
def test_moves_the_bytes_it_must_and_no_more(cuda, layout, shape):
    """3 accesses an element forward and 5 backward, in whole sectors; channels' values are beside that.

    These are read again by every thread, from the cache; so the maps are told apart by their size.
    """
    problem = Problem(shape, layout, torch.float32, {"relu": 1, "p": 0.0, "residual": 0}, True)
    size = problem.x.numel() * 4
    with cuda.tracing(least_bytes=size) as forward:
        _, *saved = problem.forward(cuda)
    with cuda.tracing(least_bytes=size) as backward:
        problem.backward(cuda, saved, None)
    assert forward["asked"] == forward["sectors"] * 32 == 3 * size
    assert backward["asked"] == backward["sectors"] * 32 == 5 * size
    # Partial sums and values of channels, all that is written beside the map.
    assert size <= forward["written"] <= 1.07 * size
    assert size <= backward["written"] <= 1.07 * size
    assert forward["bank_conflicts"] == backward["bank_conflicts"] == 0


def test_refuses(cuda):
    x = image((1, 2, 2, 2), "nchw")
    y = unset(x.shape, "nchw")
    with pytest.raises(RuntimeError, match="out of its range"):
        cuda.run("batch_norm_forward", shape=shape_of(x, "nchw"), input=x, output=y)
    with pytest.raises(RuntimeError, match="float32, float16 or bfloat16"):
        cuda.run("batch_norm_forward", shape={**shape_of(x, "nchw"), "type": 9}, input=x, output=y)
    with pytest.raises(RuntimeError, match=r"below 2\^31"):
        cuda.run("dropout", shape={**shape_of(x, "nchw"), "batch": 2**31}, input=x, output=y)


@pytest.mark.parametrize("training", [True, False])
def test_empty_batch(cuda, training):
    problem = Problem((0, 3, 4, 4), "nchw", torch.float32, OPTIONS[0], training)
    _, mean, invstd = problem.forward(cuda)
    assert torch.equal(mean, problem.running[0])
    assert_close(invstd, (problem.running[1].double() + 1e-5).rsqrt(), 1e-6)
    _, _, dw, db = problem.backward(cuda, (mean, invstd), None)
    assert not dw.any() and not db.any()
