"""The kernel of softmax and cross-entropy beside torch in float64.

On every instruction set of the machine and as the plain reference version. A row of up to a few
thousand classes is held to 2e-6 of the largest difference between its logits (of its loss) and to
2e-6 of its weight (of its gradient).
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import pyconvopt as pco
import pyconvopt.ops  # registers the shapes for tracing
from pyconvopt import _C
from pyconvopt.autograd.cross_entropy import REDUCTIONS

CROSS_ENTROPY = torch.ops.pyconvopt.cross_entropy

# Rows below, at and beyond a group of 4, 8 and 16; classes likewise, and beyond what goes in groups.
SHAPES = [(1, 1), (1, 2), (3, 5), (7, 10), (16, 16), (33, 37), (64, 10), (50, 100)]
SHAPES += [(17, 257), (5, 3000)]


@pytest.fixture(params=[*_C.available_isas(), "reference"])
def kernels(request):
    with pco.settings(isa=request.param):
        yield request.param


def problem(rows, classes, weighted, scale=3.0):
    """Logits, targets of which some are ignored, weights."""
    logits = torch.randn(rows, classes) * scale
    target = torch.randint(0, classes, (rows,))
    target[3::5] = -100
    return logits, target, torch.rand(classes) + 0.1 if weighted else None


def by_torch(logits, target, weight, reduction, smoothing, ignored=-100):
    """Loss and gradient in float64."""
    x = logits.double().requires_grad_()
    weight = None if weight is None else weight.double()
    loss = F.cross_entropy(
        x,
        target,
        weight,
        ignore_index=ignored,
        reduction=REDUCTIONS[reduction],
        label_smoothing=smoothing,
    )
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    return loss.detach(), gradient


@pytest.mark.parametrize("smoothing", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_loss_and_gradient(kernels, shape, weighted, smoothing):
    logits, target, weight = problem(*shape, weighted)
    difference = (logits.amax(1) - logits.amin(1)).max().item() + math.log(shape[1])
    largest = 1.1 if weighted else 1.0
    for reduction in range(3):
        wanted, wanted_gradient = by_torch(logits, target, weight, reduction, smoothing)
        arguments = (logits, target, weight, reduction, -100, smoothing)
        loss, gradient = CROSS_ENTROPY(*arguments, True)
        share = 1.0 if reduction != 1 else 1 / (target != -100).sum().clamp(min=1).item()
        rows = shape[0] if reduction == 2 else 1
        assert loss.shape == wanted.shape
        assert (loss - wanted).abs().max() <= 2e-6 * largest * (difference + 1e-3) * rows
        assert (gradient - wanted_gradient).abs().max() <= 2e-6 * largest * share / 0.1**weighted
        assert torch.equal(CROSS_ENTROPY(*arguments, False)[0], loss)


def test_gradient_is_probability_minus_one_hot(kernels):
    # z = (0, ln 3): p = (1/4, 3/4).
    loss, gradient = CROSS_ENTROPY(
        torch.tensor([[0.0, math.log(3)]]), torch.tensor([0]), None, 1, -100, 0.0, True
    )
    assert loss.item() == pytest.approx(math.log(4), rel=1e-6)
    assert gradient.tolist()[0] == pytest.approx([-0.75, 0.75], rel=1e-6)


def test_large_and_tiny_probabilities(kernels):
    """Neither overflow nor log(0): differences of hundreds between logits."""
    logits = torch.tensor([[300.0, -300.0, 0.0], [-3e38, 3e38, 0.0], [1e-40, 0.0, -1e-40]])
    for t in range(3):
        target = torch.full((3,), t)
        loss, gradient = CROSS_ENTROPY(logits, target, None, 0, -100, 0.0, True)
        wanted, wanted_gradient = by_torch(logits, target, None, 0, 0.0)
        beyond = wanted > torch.finfo(torch.float32).max
        assert torch.equal(loss.isinf(), beyond)
        torch.testing.assert_close(loss[~beyond].double(), wanted[~beyond], rtol=1e-6, atol=0)
        torch.testing.assert_close(gradient.double(), wanted_gradient, rtol=0, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("classes", [3, 21, 70])
def test_infinities_and_not_a_numbers_as_torch(kernels, classes, smoothing):
    rows = torch.randn(8, classes)
    rows[0, 0], rows[1, 1], rows[2, 2] = torch.nan, torch.inf, -torch.inf
    rows[3] = -torch.inf
    rows[4, ::2] = -torch.inf
    rows[5, -1], rows[6, -1] = torch.nan, -torch.inf
    for t in (0, 1, 2, classes - 1):
        target = torch.full((8,), t)
        x = rows.clone().requires_grad_()
        wanted = F.cross_entropy(x, target, reduction="none", label_smoothing=smoothing)
        wanted.sum().backward()
        loss, gradient = CROSS_ENTROPY(rows, target, None, 0, -100, smoothing, True)
        same = {"rtol": 2e-6, "atol": 2e-6, "equal_nan": True}
        torch.testing.assert_close(loss, wanted.detach(), **same)
        torch.testing.assert_close(gradient, x.grad, **same)


def test_ignored_rows_count_for_nothing(kernels):
    logits, target, _ = problem(9, 6, False)
    target = torch.where(target == -100, 2, target)
    for smoothing in (0.0, 0.3):
        for reduction in range(3):
            wanted, wanted_gradient = by_torch(logits, target, None, reduction, smoothing, 2)
            loss, gradient = CROSS_ENTROPY(logits, target, None, reduction, 2, smoothing, True)
            torch.testing.assert_close(loss.double(), wanted, rtol=2e-6, atol=2e-6)
            torch.testing.assert_close(gradient.double(), wanted_gradient, rtol=0, atol=2e-6)
            assert not gradient[target == 2].any()


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_nothing_counts(kernels, smoothing):
    target = torch.full((4,), -100)
    for rows in (4, 0):
        for reduction in range(3):
            arguments = (torch.randn(rows, 3), target[:rows], None, reduction, -100, smoothing)
            loss, gradient = CROSS_ENTROPY(*arguments, True)
            assert loss.isnan().all() if reduction == 1 else not loss.any()
            assert not gradient.any()


@pytest.mark.parametrize("classes", [10, 37, 500])
def test_thread_count_changes_no_bit(isa, classes):
    logits, target, weight = problem(70000 // classes * 5, classes, True)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for reduction in range(3):
            results.append(CROSS_ENTROPY(logits, target, weight, reduction, -100, 0.1, True))
    for i, (loss, gradient) in enumerate(results):
        assert torch.equal(loss, results[i % 3][0]) and torch.equal(gradient, results[i % 3][1])


def test_sum_of_many_rows(kernels):
    """A float32 sum one by one would be off by 1e-3."""
    logits, target, _ = problem(200000, 4, False)
    wanted, _ = by_torch(logits, target, None, 2, 0.0)
    loss, _ = CROSS_ENTROPY(logits, target, None, 2, -100, 0.0, False)
    assert abs(loss.item() / wanted.item() - 1) < 3e-7


@pytest.mark.parametrize("target", [-1, 3, -101, 1 << 40])
def test_target_out_of_range_is_refused(kernels, target):
    with pytest.raises(
        RuntimeError,
        match=rf"Target {target} is out of bounds: classes are 0 \.\.\. 2, or ignore_index -100, in row 1",
    ):
        CROSS_ENTROPY(torch.zeros(2, 3), torch.tensor([0, target]), None, 1, -100, 0.0, True)


X, T = torch.zeros(2, 3), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X.double(), T, None, 1, -100, 0.0), "input of dtype float32"),
        ((X.t(), T, None, 1, -100, 0.0), "contiguous matrix"),
        ((X[0], T, None, 1, -100, 0.0), "contiguous matrix"),
        ((X, T.int(), None, 1, -100, 0.0), "target of dtype int64"),
        ((X, T[:1], None, 1, -100, 0.0), "vector of 2 elements"),
        ((X, T, X[0, :2], 1, -100, 0.0), "weight to be a contiguous vector of 3"),
        ((X, T, None, 3, -100, 0.0), "reduction of 0 to 2, but got 3"),
        ((X, T, None, 1, -100, 1.5), "label_smoothing in 0 to 1, but got 1.5"),
        ((X, T, None, 1, -100, math.nan), "label_smoothing in 0 to 1, but got nan"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(RuntimeError, match=message):
        CROSS_ENTROPY(*arguments, True)


def test_operator_passes_opcheck():
    for reduction in range(3):
        for needed in (False, True):
            arguments = (X, T, torch.ones(3), reduction, -100, 0.1, needed)
            torch.library.opcheck(CROSS_ENTROPY.default, arguments)


def test_from_numpy():
    logits, target, weight = problem(9, 6, True)
    wanted, wanted_gradient = by_torch(logits, target, weight, 1, 0.2)
    loss, gradient = _C.cross_entropy(
        logits.numpy(), target.numpy(), weight.numpy(), label_smoothing=0.2
    )
    assert loss == pytest.approx(wanted.item(), rel=1e-6)
    np.testing.assert_allclose(gradient, wanted_gradient.numpy(), atol=1e-6)
    with pytest.raises(IndexError, match="target 6 of row 0 is no class in 0 to 5"):
        _C.cross_entropy(logits.numpy(), np.full(9, 6))
    with pytest.raises(ValueError, match="a weight for each of 6 classes, got 2"):
        _C.cross_entropy(logits.numpy(), target.numpy(), np.ones(2))
    with pytest.raises(ValueError, match=r"logits \(N, C\) and a target \(N\)"):
        _C.cross_entropy(logits.numpy(), target[:3].numpy())
    with pytest.raises(ValueError, match="label_smoothing must lie in 0 to 1"):
        _C.cross_entropy(logits.numpy(), target.numpy(), label_smoothing=2)
