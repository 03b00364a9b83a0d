"""Every schedule over 1,000 steps beside torch's or Keras' of the same name, or its formula."""

from __future__ import annotations

import math
import os

import pytest
import torch

from pyconvopt import schedules

os.environ.setdefault("KERAS_BACKEND", "torch")
STEPS = 1000
LR = 0.3


def torch_rates(make, steps=STEPS, lr=LR):
    """The rates that a torch scheduler sets."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=lr)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


torch_schedules = torch.optim.lr_scheduler
TORCH = {
    "exponential": (
        schedules.Exponential(LR, 0.995),
        lambda o: torch_schedules.ExponentialLR(o, 0.995),
    ),
    "step": (schedules.Step(LR, 130, 0.4), lambda o: torch_schedules.StepLR(o, 130, 0.4)),
    "multi step": (
        schedules.MultiStep(LR, [100, 101, 700], 0.2),
        lambda o: torch_schedules.MultiStepLR(o, [100, 101, 700], 0.2),
    ),
    "polynomial": (
        schedules.Polynomial(LR, 800, power=1.7),
        lambda o: torch_schedules.PolynomialLR(o, 800, 1.7),
    ),
    "cosine": (
        schedules.Cosine(LR, STEPS, end=0.01),
        lambda o: torch_schedules.CosineAnnealingLR(o, STEPS, 0.01),
    ),
    "cosine restarts": (
        schedules.CosineRestarts(LR, 90, t_mul=1, end=0.01),
        lambda o: torch_schedules.CosineAnnealingWarmRestarts(o, 90, 1, 0.01),
    ),
    "growing restarts": (
        schedules.CosineRestarts(LR, 30, t_mul=3),
        lambda o: torch_schedules.CosineAnnealingWarmRestarts(o, 30, 3),
    ),
    "one cycle": (
        schedules.OneCycle(LR, STEPS),
        lambda o: torch_schedules.OneCycleLR(o, LR, STEPS, cycle_momentum=False),
    ),
    "linear one cycle": (
        schedules.OneCycle(LR, STEPS, 0.45, 10.0, 50.0, "linear"),
        lambda o: torch_schedules.OneCycleLR(
            o,
            LR,
            STEPS,
            pct_start=0.45,
            div_factor=10.0,
            final_div_factor=50.0,
            anneal_strategy="linear",
            cycle_momentum=False,
        ),
    ),
    "warm-up": (
        schedules.Constant(LR).warmup(200, start=0.25),
        lambda o: torch_schedules.LinearLR(o, 0.25, 1.0, 200),
    ),
    "one after another": (
        schedules.Exponential(LR, 0.99).then(schedules.Cosine(LR, 600), at=400),
        lambda o: torch_schedules.SequentialLR(
            o,
            [torch_schedules.ExponentialLR(o, 0.99), torch_schedules.CosineAnnealingLR(o, 600)],
            [400],
        ),
    ),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter in")
@pytest.mark.parametrize("case", TORCH)
def test_beside_torch(case):
    schedule, make = TORCH[case]
    # torch multiplies step by step, so its own rounding adds up.
    assert [schedule(t) for t in range(STEPS)] == pytest.approx(
        torch_rates(make), rel=1e-9, abs=1e-12
    )


KERAS = {
    "ExponentialDecay": (schedules.Exponential(LR, 0.5 ** (1 / 50)), (LR, 50, 0.5), {}),
    "PolynomialDecay": (
        schedules.Polynomial(LR, 700, end=0.02, power=0.5),
        (LR, 700, 0.02, 0.5),
        {},
    ),
    "InverseTimeDecay": (schedules.InverseTime(LR, 40, 0.7), (LR, 40, 0.7), {}),
    "InverseTimeDecay in stairs": (
        schedules.InverseTime(LR, 40, 0.7, staircase=True),
        (LR, 40, 0.7, True),
        {},
    ),
    "CosineDecay": (schedules.Cosine(LR, 800, end=0.1 * LR), (LR, 800, 0.1), {}),
    "CosineDecay after a warm-up": (
        schedules.Polynomial(0.0, 100, end=LR).then(schedules.Cosine(LR, 800), at=100),
        (0.0, 800),
        {"warmup_target": LR, "warmup_steps": 100},
    ),
    "CosineDecayRestarts": (
        schedules.CosineRestarts(LR, 101, t_mul=1.5, m_mul=0.8, end=0.1 * LR),
        (LR, 101, 1.5, 0.8, 0.1),
        {},
    ),
}


@pytest.mark.parametrize("case", KERAS)
def test_beside_keras(case):
    keras = pytest.importorskip("keras", reason="Keras is an optional test dependency")
    ours, arguments, more = KERAS[case]
    theirs = getattr(keras.optimizers.schedules, case.split()[0])(*arguments, **more)
    rates = [float(theirs(t)) for t in range(STEPS)]
    # Keras computes in float32: half a cosine near its end loses most digits, and a restart at a
    # whole step may come one late (so the case has none after the first).
    assert [ours(t) for t in range(STEPS)] == pytest.approx(rates, rel=2e-5, abs=2e-7)


def test_the_articles_decay():
    by_delta = schedules.Exponential.from_delta(LR, 0.21)
    redwood = schedules.Redwood(LR, 0.21)
    for t in range(STEPS):
        assert by_delta(t) == pytest.approx(LR / 1.21 ** (t / 2))
        assert redwood(t) == pytest.approx(LR / math.sqrt(1 + 0.21 * t))
    assert by_delta(1) == pytest.approx(redwood(1)) and by_delta(2) < redwood(2)


@pytest.mark.parametrize(
    ("shape", "fall"),
    [
        ("linear", lambda s: 1 - s),
        ("cosine", lambda s: math.cos(math.pi * s / 2) ** 2),
        ("sqrt", lambda s: 1 - math.sqrt(s)),
    ],
)
def test_warm_up_stable_decay(shape, fall):
    schedule = schedules.WSD(LR, STEPS, 0.1, 0.25, end=0.03, shape=shape)
    for t in range(STEPS + 50):
        if t < 100:
            expected = LR * t / 100
        elif t < 750:
            expected = LR
        else:
            expected = 0.03 + (LR - 0.03) * fall(min((t - 750) / 250, 1))
        assert schedule(t) == pytest.approx(expected, abs=1e-12)


def test_warm_up_and_stable_alone():
    assert [schedules.WSD(1.0, 10, 0.5, 0.0)(t) for t in (0, 1, 5, 10, 11)] == [0, 0.2, 1, 1, 1]
    assert [schedules.WSD(1.0, 10, 0.0, 1.0)(t) for t in (0, 5, 10)] == [1, 0.5, 0]


def test_a_warm_up_keeps_what_follows_in_its_place():
    inner = schedules.MultiStep(1.0, (6, 8), 0.5)
    schedule = inner.warmup(5, start=0.1)
    assert [schedule(t) for t in range(5)] == pytest.approx([0.1, 0.28, 0.46, 0.64, 0.82])
    assert [schedule(t) for t in range(5, 20)] == [inner(t) for t in range(5, 20)]
    smooth = schedules.Constant(2.0).warmup(4, shape="cosine")
    assert [smooth(t) for t in range(5)] == pytest.approx(
        [2 * math.sin(math.pi * t / 8) ** 2 for t in range(5)]
    )


@pytest.mark.parametrize("n", [1, 2, 3])
def test_one_cycle_of_hardly_any_steps(n):
    rates = [
        schedules.OneCycle(1.0, n, pct_start=share)(t) for share in (0, 0.5, 1) for t in (0, 5)
    ]
    assert all(0 < rate <= 1 for rate in rates)
