"""A hundred steps of every optimiser beside its paper's formula, in both memory formats."""

from __future__ import annotations

import pytest
import torch

from pyconvopt import optimizers
from pyconvopt.optimizers.muon import orthogonalized
from tests.optimizers import references
from tests.optimizers.problem import advance, gradient, needs_library, start

STEPS = range(100)

# Name: settings, formula, error. Prodigy and D-Adaptation keep their sums in float32, as SOAP its QR.
CASES = {
    "nesterov": ({"lr": 0.01}, references.nesterov, 1e-9),
    "rmsprop": ({"lr": 0.01}, references.rmsprop, 1e-9),
    "adagrad": ({"lr": 0.1}, references.adagrad, 1e-9),
    "adadelta": ({"lr": 5.0}, references.adadelta, 1e-9),
    "adamax": ({"lr": 0.01}, references.adamax, 1e-9),
    "nadam": ({"lr": 0.01}, references.nadam, 1e-8),
    "radam": ({"lr": 0.01}, references.radam, 1e-9),
    "lion": ({"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1}, references.lion, 1e-9),
    "lamb": ({"lr": 0.01, "weight_decay": 0.1}, references.lamb, 1e-9),
    "lars": ({"lr": 2.0, "weight_decay": 0.01}, references.lars, 1e-9),
    "prodigy": ({"d0": 1e-3}, references.prodigy, 1e-4),
    "dadapt_sgd": ({"d0": 0.1}, references.dadapt_sgd, 1e-4),
    "dadapt_adam": ({"d0": 1e-3}, references.dadapt_adam, 1e-4),
    "shampoo": ({"lr": 0.1}, references.shampoo, 1e-8),
    "soap": ({"lr": 0.01, "weight_decay": 0.1}, references.soap, 1e-4),
    "muon": ({"lr": 0.02, "weight_decay": 0.1}, references.orthogonal_momentum, 1e-8),
    "lookahead": (
        {"lr": 0.05, "momentum": 0.9, "k": 7, "alpha": 0.3},
        references.lookahead,
        1e-9,
    ),
    "sam": ({"lr": 0.05, "rho": 0.5}, references.sam, 1e-9),
    "sgd_hd": ({"lr": 0.01, "hypergrad_lr": 1e-4}, references.sgd_hd, 1e-9),
    "adam_hd": ({"lr": 0.01, "hypergrad_lr": 1e-5}, references.adam_hd, 1e-9),
}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_hundred_steps(name, channels_last):
    needs_library(name)
    settings, formula, error = CASES[name]
    weights = start(channels_last)
    advance(optimizers.get(name, weights, **settings), weights, STEPS)
    expected = [w.detach().clone() for w in start()]
    formula(expected, STEPS, **settings)
    moved = max((a - b).abs().max() for a, b in zip(start(), expected, strict=True))
    assert moved > 0.05, "the problem must move the weights"
    for w, value in zip(weights, expected, strict=True):
        torch.testing.assert_close(w.detach(), value, rtol=error, atol=error)
    assert weights[0].is_contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("name", "settings", "formula"),
    [
        ("schedule_free_sgd", {"lr": 0.1}, references.schedule_free_sgd),
        (
            "schedule_free_adamw",
            {"lr": 0.02, "weight_decay": 0.1},
            references.schedule_free_adamw,
        ),
    ],
)
def test_schedule_free_trains_at_y_and_evaluates_at_x(name, settings, formula, channels_last):
    needs_library(name)
    weights = start(channels_last)
    optimizer = optimizers.get(name, weights, **settings)
    advance(optimizer, weights, STEPS)
    y = [w.detach().clone() for w in start()]
    x = formula(y, STEPS, **settings)
    for w, value in zip(weights, y, strict=True):
        torch.testing.assert_close(w.detach(), value, rtol=1e-9, atol=1e-9)
    optimizer.eval()
    for w, value in zip(weights, x, strict=True):
        torch.testing.assert_close(w.detach(), value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("settings", [{"every": 3}, {"adaptive": True}])
def test_sam_every_few_steps_and_adaptive(settings):
    weights = start()
    advance(optimizers.get("sam", weights, lr=0.05, rho=0.5, **settings), weights, STEPS)
    expected = [w.detach().clone() for w in start()]
    references.sam(expected, STEPS, lr=0.05, rho=0.5, **settings)
    for w, value in zip(weights, expected, strict=True):
        torch.testing.assert_close(w.detach(), value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_beside_the_librarys(adaptive):
    library = pytest.importorskip("pytorch_optimizer", reason="pytorch-optimizer is optional")
    weights, others = start(), start()
    ours = optimizers.SAM(weights, "sgd", rho=0.3, adaptive=adaptive, lr=0.05, momentum=0.9)
    theirs = library.SAM(others, torch.optim.SGD, rho=0.3, adaptive=adaptive, lr=0.05, momentum=0.9)
    advance(ours, weights, STEPS)
    for step in STEPS:

        def closure(step=step):
            for index, w in enumerate(others):
                w.grad = gradient(step, index, w.detach())

        closure()
        theirs.step(closure)
    for a, b in zip(weights, others, strict=True):  # the library's norm is a float32 one
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_lookahead_beside_the_librarys():
    library = pytest.importorskip("pytorch_optimizer", reason="pytorch-optimizer is optional")
    weights, others = start(), start()
    ours = optimizers.Lookahead(weights, "adam", k=4, alpha=0.6, lr=0.05)
    theirs = library.Lookahead(optimizers.get("adam", others, lr=0.05), k=4, alpha=0.6)
    advance(ours, weights, STEPS)
    advance(theirs, others, STEPS)
    for a, b in zip(weights, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
def test_muon_beside_torchs_on_matrices(adjust):
    ours, theirs = (torch.nn.Parameter(torch.randn(6, 9).mul_(3)) for _ in range(2))
    theirs.data.copy_(ours.data)
    a = optimizers.Muon([ours], lr=0.02, adjust_lr_fn=adjust)
    b = torch.optim.Muon([theirs], lr=0.02, adjust_lr_fn=adjust)
    advance(a, [ours], STEPS)
    advance(b, [theirs], STEPS)
    # torch iterates in bfloat16, with three digits.
    torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (12, 20), (16, 16)])
@pytest.mark.parametrize(("decades", "bound"), [(1, 1e-4), (7, 2e-3)])
def test_orthogonalized_in_float32(shape, decades, bound):
    u, _, vt = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    matrix = u * torch.logspace(0, -decades, min(shape), dtype=torch.float64) @ vt
    exact = orthogonalized(matrix)
    torch.testing.assert_close(
        orthogonalized(matrix.float()).double(), exact, rtol=0, atol=bound * float(exact.norm())
    )


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1}, {"nesterov": False}])
def test_muon_of_filters_is_muon_of_their_matrix(settings):
    filters, matrix = start(channels_last=True)[0], start()[0].detach().reshape(4, 27)
    matrix = torch.nn.Parameter(matrix)
    a, b = optimizers.Muon([filters], 0.02, **settings), optimizers.Muon([matrix], 0.02, **settings)
    for step in STEPS:
        filters.grad = gradient(step, 0, filters.detach())
        matrix.grad = gradient(step, 0, filters.detach()).reshape(4, 27)
        a.step()
        b.step()
    torch.testing.assert_close(filters.reshape(4, 27), matrix, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("base", "settings"),
    [
        ("sgd", {"momentum": 0.9, "weight_decay": 0.1}),
        ("sgd", {"momentum": 0.9, "nesterov": True}),
        ("adam", {"weight_decay": 0.1}),
        ("adam", {"amsgrad": True}),
        ("adamw", {"weight_decay": 0.1}),
    ],
)
def test_the_hypergradient_is_the_derivative_by_the_rate(base, settings):
    """With one weight and no noise: α moves by β · −df(w_t)/dα, by a difference quotient."""

    def loss_after(shift):
        """The loss after four steps, the fourth with a rate that is off by `shift`."""
        w = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        optimizer = optimizers.get(base, [w], lr=0.1, **settings)
        for step in range(4):
            optimizer.param_groups[0]["lr"] = 0.1 + (shift if step == 3 else 0.0)
            w.grad = 2 * w.detach() ** 3
            optimizer.step()
        coupled = 0.0 if base == "adamw" else settings.get("weight_decay", 0.0)
        return float((0.5 * (w**4).sum() + 0.5 * coupled * (w**2).sum()).detach())

    slope = (loss_after(1e-5) - loss_after(-1e-5)) / 2e-5
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = optimizers.HypergradientDescent([w], base, hypergrad_lr=0.0, lr=0.1, **settings)
    for step in range(5):
        optimizer.hypergrad_lr = 1e-3 if step == 4 else 0.0
        w.grad = 2 * w.detach() ** 3
        optimizer.step()
    assert optimizer.param_groups[0]["lr"] - 0.1 == pytest.approx(-1e-3 * slope, rel=1e-5)
