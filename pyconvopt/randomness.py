"""The random states a run depends on: Python's, NumPy's, torch's, and a generator of one's own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_states(generator: torch.Generator | None = None) -> dict[str, Any]:
    """All states, as numbers and tensors; `set_random_states` puts them back."""
    # The legacy form, a tuple; NumPy's annotations only know its values as a union.
    numpy_state: Any = np.random.get_state()
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (numpy_state[0], numpy_state[1].tolist(), *numpy_state[2:]),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state_all()
    if generator is not None:
        states["generator"] = generator.get_state()
    return states


def set_random_states(states: dict[str, Any], generator: torch.Generator | None = None) -> None:
    """Put all states back."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states:
        torch.cuda.set_rng_state_all(states["cuda"])
    if generator is not None and "generator" in states:
        generator.set_state(states["generator"])


@contextmanager
def random_states_kept(generator: torch.Generator | None = None) -> Iterator[None]:
    """Whatever is drawn within, the states are afterwards what they were.

    >>> before = torch.get_rng_state()
    >>> with random_states_kept():
    ...     _ = torch.rand(3)
    >>> torch.equal(torch.get_rng_state(), before)
    True
    """
    states = random_states(generator)
    try:
        yield
    finally:
        set_random_states(states, generator)
