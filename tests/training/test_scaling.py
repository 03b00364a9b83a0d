"""The model of a shared step: numbers by hand, where it stops paying, wrong numbers refused."""

from __future__ import annotations

import pytest

from pyconvopt.training import best_machines, step_time


def test_by_hand():
    # 0.2 / 4 + 8e6 · 6 / 4 / 1e9 + 2 · 6 · 0.001
    assert step_time(0.2, 8e6, 4, 1e9, 0.001) == pytest.approx(0.05 + 0.012 + 0.012)
    assert step_time(0.2, 8e6, 1, 1e9, 0.001) == 0.2


def test_the_shortest_step():
    arguments = (0.1, 4e6, 125e6, 1e-4)
    times = [step_time(0.1, 4e6, n, 125e6, 1e-4) for n in range(1, 65)]
    assert best_machines(*arguments, most=64) == 1 + times.index(min(times)) > 1
    assert best_machines(0.001, 4e6, 125e6) == 1  # sending takes longer than computing


def test_what_is_worth_it():
    count = best_machines(0.1, 4e6, 125e6, worth=0.05)
    times = [step_time(0.1, 4e6, n, 125e6) for n in (count - 1, count, count + 1)]
    assert times[1] <= 0.95 * times[0] and times[2] > 0.95 * times[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 1.0, 2, 1.0), "compute must be more than 0, got 0.0"),
        ((1.0, -1.0, 2, 1.0), "gradient_bytes must be 0 or more, got -1.0"),
        ((1.0, 1.0, 0, 1.0), "machines must be a whole number >= 1, got 0"),
        ((1.0, 1.0, 2, 0.0), "bandwidth must be more than 0, got 0.0"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        step_time(*arguments)
