"""Optimiser steps on the emulated GPU beside torch.optim."""

from __future__ import annotations

import ctypes

import pytest
import torch

from tests.cuda_emulation.library import structures

# More tensors than a launch takes; below, at and beyond fours and pieces of 4096; an empty one.
SIZES = [1, 3, 4, 64, 4095, 4096, 4097, 9000, 0, *range(30, 60)]
STATES = {"sgd": ["momentum"], "adam": ["mean", "variance"]}
TORCH_STATES = {"momentum": "momentum_buffer", "mean": "exp_avg", "variance": "exp_avg_sq"}


class Steps:
    """Parameters on the emulated GPU that make the same steps as a torch optimiser's."""

    def __init__(self, library, entry, parameters, states=True):
        self.library, self.entry, self.taken = library, entry, 0
        self.parameters = [p.detach().clone() for p in parameters]
        self.states = {
            s: [torch.zeros_like(p) for p in parameters] for s in STATES[entry] if states
        }

    def step(self, gradients, **options):
        self.taken += 1
        kind = structures()[f"Pyconvopt{self.entry.capitalize()}Tensor"]
        extra = {"first": self.taken == 1} if self.entry == "sgd" else {"step": self.taken}
        register = self.library.register
        tensors = [
            kind(
                size=p.numel(), parameter=register(f"parameter {i}", p),
                gradient=register(f"gradient {i}", gradients[i], writable=False),
                **{s: register(f"{s} {i}", of[i]) for s, of in self.states.items()}, **extra,
            )
            for i, p in enumerate(self.parameters)
        ]  # fmt: skip
        array = (kind * len(tensors))(*tensors)
        self.library.run(self.entry, tensors=ctypes.addressof(array), count=len(tensors), **options)


def compare(library, entry, optimizer_of, options, states=True):
    parameters = [torch.randn(size).requires_grad_() for size in SIZES]
    ours, theirs = Steps(library, entry, parameters, states), optimizer_of(parameters)
    for _ in range(3):
        gradients = [torch.randn(size) for size in SIZES]
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g.clone()
        theirs.step()
        ours.step(gradients, **options)
    for i, p in enumerate(parameters):
        torch.testing.assert_close(ours.parameters[i], p.detach(), rtol=2e-6, atol=1e-6)
        for name, state in ours.states.items():
            wanted = theirs.state[p].get(TORCH_STATES[name])
            if p.numel():
                torch.testing.assert_close(state[i], wanted, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
        {"momentum": 0.8, "dampening": 0.3, "maximize": True},
        {"weight_decay": 0.1},
    ],
    ids=str,
)
def test_sgd(cuda, options):
    compare(
        cuda, "sgd", lambda p: torch.optim.SGD(p, lr=0.05, **options), {"lr": 0.05, **options},
        states="momentum" in options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "betas", "options"),
    [
        (torch.optim.Adam, (0.9, 0.999), {}),
        (torch.optim.Adam, (0.4, 0.9), {"weight_decay": 0.1}),
        (torch.optim.AdamW, (0.9, 0.99), {"weight_decay": 0.1, "maximize": True}),
    ],
    ids=str,
)
def test_adam(cuda, kind, betas, options):
    decoupled = kind is torch.optim.AdamW
    ours = {
        "lr": 0.01,
        "beta1": betas[0],
        "beta2": betas[1],
        "epsilon": 1e-8,
        "decoupled": decoupled,
    }
    compare(cuda, "adam", lambda p: kind(p, lr=0.01, betas=betas, **options), {**ours, **options})


def test_misaligned_parameters(cuda):
    """Slices of one memory that start between vectors."""
    memory, gradient = torch.randn(101), torch.randn(100)
    steps = Steps(cuda, "sgd", [memory[1:]], states=False)
    steps.parameters = [memory[1:]]
    before = memory.clone()
    steps.step([gradient], lr=0.5)
    torch.testing.assert_close(memory[1:], before[1:] - 0.5 * gradient)
    assert memory[0] == before[0]
