"""`pco.nn.BatchNorm2d` and the fused function beside torch's parts."""

from __future__ import annotations

import pytest
import torch

import pyconvopt as pco

from ..cases import MAP_SHAPES
from .helpers import assert_same, assert_same_step

FORMATS = [torch.contiguous_format, torch.channels_last]


def pair_of(channels, **options):
    ours = pco.nn.BatchNorm2d(channels, **options)
    theirs = torch.nn.BatchNorm2d(channels, **options)
    if ours.affine:
        torch.nn.init.normal_(ours.weight)
        torch.nn.init.normal_(ours.bias)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def make_map(shape, memory_format=torch.channels_last):
    return (torch.randn(shape) * 3 + 5).contiguous(memory_format=memory_format)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("shape", MAP_SHAPES, ids=str)
def test_training_and_evaluation(shape, memory_format):
    ours, theirs = pair_of(shape[1])
    for _ in range(3):
        assert_same_step(ours, theirs, make_map(shape, memory_format))
        ours.zero_grad()
        theirs.zero_grad()
    ours.eval(), theirs.eval()
    assert_same_step(ours, theirs, make_map(shape, memory_format))


@pytest.mark.parametrize(
    "options",
    [
        {"affine": False},
        {"track_running_stats": False},
        {"momentum": None},
        {"momentum": 0.7, "eps": 0.1},
        {"affine": False, "track_running_stats": False},
    ],
    ids=str,
)
def test_constructor_arguments(options, isa):
    ours, theirs = pair_of(8, **options)
    assert repr(ours) == repr(theirs)
    for _ in range(2):
        assert_same_step(ours, theirs, make_map((4, 8, 5, 6)))
        ours.zero_grad()
        theirs.zero_grad()
    ours.eval(), theirs.eval()
    assert_same_step(ours, theirs, make_map((4, 8, 5, 6)))


def test_statistics_far_from_zero():
    """The variance of values around 1e4 with spread 1 comes out, thanks to the shift."""
    x = (torch.randn(8, 16, 9, 9) + 1e4).contiguous(memory_format=torch.channels_last)
    y = pco.nn.BatchNorm2d(16)(x)
    wanted = torch.nn.functional.batch_norm(x.double(), None, None, training=True)
    assert (y.double() - wanted).abs().max() < 5e-3


def test_one_value_a_channel_is_refused_as_torch_does():
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        pco.nn.BatchNorm2d(4)(torch.zeros(1, 4, 1, 1))
    pco.nn.BatchNorm2d(4).eval()(torch.zeros(1, 4, 1, 1))
    with pytest.raises(ValueError, match="expected 4D input"):
        pco.nn.BatchNorm2d(4)(torch.zeros(2, 4))


def plain(x, w, b, residual, relu, pool):
    y = torch.nn.functional.batch_norm(x, None, None, w, b, True)
    y = y if residual is None else y + residual
    y = torch.relu(y) if relu else y
    return torch.max_pool2d(y, 2) if pool else y


@pytest.mark.parametrize(
    ("relu", "pool", "residual"),
    [(True, False, False), (True, True, False), (False, True, False), (True, False, True),
     (False, False, True), (True, True, True)],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(4, 32, 13, 13), (3, 19, 6, 7), (2, 5, 2, 3)], ids=str)
def test_fused(shape, relu, pool, residual, isa):
    results = []
    tensors = [make_map(shape), torch.randn(shape[1]), torch.randn(shape[1])]
    tensors += [make_map(shape)] if residual else []
    for fused in (True, False):
        leaves = [t.clone().requires_grad_() for t in tensors]
        x, w, b, *rest = leaves
        other = rest[0] if rest else None
        if fused:
            y = pco.functional.batch_norm(
                x, None, None, w, b, True, activation="relu" if relu else None,
                residual=other, pool=pool,
            )  # fmt: skip
        else:
            y = plain(x, w, b, other, relu, pool)
        y.backward(torch.sin(torch.arange(y.numel()).float()).view(y.shape))
        results.append([y, *(t.grad for t in leaves)])
    for ours, wanted in zip(*results, strict=True):
        assert_same(ours, wanted, 5e-4)


@pytest.mark.parametrize("pool", [False, True])
def test_fused_dropout_is_dropout_of_the_rest(pool):
    """Kept elements are the undropped result scaled, and so is their gradient."""
    x = make_map((8, 16, 12, 12))
    w, b = torch.rand(16) + 0.5, torch.randn(16)

    def run(p):
        torch.manual_seed(7)
        leaf = x.clone().requires_grad_()
        y = pco.functional.batch_norm(
            leaf, None, None, w, b, True, activation="relu", pool=pool, dropout=p
        )
        return leaf, y

    _, whole = run(0.0)
    _, y = run(0.25)
    alive = whole > 0
    kept = (y != 0) & alive
    assert_same(y[kept], whole[kept] / 0.75, 1e-5)
    assert not y[~alive].any()
    share = kept.sum().item() / alive.sum().item()
    assert abs(share - 0.75) < 4 * (0.75 * 0.25 / alive.sum().item()) ** 0.5
    # The gradient: that of the plain parts times the mask found above.
    leaf, y = run(0.25)
    g = torch.randn_like(y)
    y.backward(g)
    other = x.clone().requires_grad_()
    mask = torch.where(kept, 1 / 0.75, 0.0)
    (plain(other, w, b, None, True, pool) * mask).backward(g)
    assert_same(leaf.grad, other.grad, 5e-4)


@pytest.mark.parametrize("training", [True, False])
def test_double_backward_takes_the_reference_path(training):
    x = make_map((3, 8, 6, 6)).requires_grad_()
    w, b = torch.randn(8, requires_grad=True), torch.randn(8, requires_grad=True)
    mean, var = torch.randn(8), torch.rand(8) + 0.5

    def penalty(fused):
        if fused:
            y = pco.functional.batch_norm(
                x, mean.clone(), var.clone(), w, b, training, activation="relu", pool=True
            )
        else:
            y = torch.nn.functional.batch_norm(x, mean.clone(), var.clone(), w, b, training)
            y = torch.max_pool2d(torch.relu(y), 2)
        gx, gw = torch.autograd.grad(y.square().sum(), (x, w), create_graph=True)
        return torch.autograd.grad(gx.square().sum() + gw.square().sum(), (x, w, b))

    for ours, wanted in zip(penalty(True), penalty(False), strict=True):
        assert_same(ours, wanted, 2e-3)


def test_double_backward_where_the_residual_made_the_input():
    """The gradient to the residual is the direct one: autograd adds what comes through the branch."""
    residual = make_map((3, 8, 6, 6)).requires_grad_()
    w, b = torch.randn(8, requires_grad=True), torch.randn(8, requires_grad=True)

    def penalty(fused):
        x = residual.sin() * w.view(-1, 1, 1)
        if fused:
            y = pco.functional.batch_norm(
                x, None, None, w, b, True, activation="relu", residual=residual
            )
        else:
            y = plain(x, w, b, residual, True, False)
        (g,) = torch.autograd.grad(y.square().sum(), residual, create_graph=True)
        return g, *torch.autograd.grad(g.square().sum(), (residual, w, b))

    for ours, wanted in zip(penalty(True), penalty(False), strict=True):
        assert_same(ours, wanted, 2e-3)


def test_gradcheck_in_double():
    layer = pco.nn.BatchNorm2d(3).double()
    x = torch.randn(4, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))
    assert torch.autograd.gradgradcheck(layer, (x,))


def test_thread_count_changes_no_bit():
    x, g = make_map((16, 48, 17, 17)), make_map((16, 48, 8, 8))
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        torch.manual_seed(1)
        leaf = x.clone().requires_grad_()
        w = torch.ones(48, requires_grad=True)
        y = pco.functional.batch_norm(
            leaf, None, None, w, None, True, activation="relu", pool=True, dropout=0.5
        )
        y.backward(g)
        results.append((y, leaf.grad, w.grad))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_nan_and_inf_propagate_as_in_torch():
    for bad in (float("nan"), float("inf")):
        x = make_map((2, 4, 4, 4))
        x[0, 1, 2, 2] = bad
        ours, theirs = pair_of(4)
        assert_same(ours(x.clone()), theirs(x.clone()))
        ours.eval(), theirs.eval()
        assert_same(ours(x.clone())[:, [0, 2, 3]], theirs(x.clone())[:, [0, 2, 3]])
