"""The random states a run depends on: Python's, NumPy's, torch's, and generators of one's own."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_states(generators: Sequence[torch.Generator] = ()) -> dict[str, Any]:
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
    if generators:
        states["generators"] = [each.get_state() for each in generators]
    return states


def set_random_states(states: dict[str, Any], generators: Sequence[torch.Generator] = ()) -> None:
    """Put all states back."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states:
        torch.cuda.set_rng_state_all(states["cuda"])
    for each, state in zip(generators, states.get("generators", ()), strict=False):
        each.set_state(state)


@contextmanager
def random_states_kept(generators: Sequence[torch.Generator] = ()) -> Iterator[None]:
    """Whatever is drawn within, the states are afterwards what they were.

    >>> before = torch.get_rng_state()
    >>> with random_states_kept():
    ...     _ = torch.rand(3)
    >>> torch.equal(torch.get_rng_state(), before)
    True
    """
    states = random_states(generators)
    try:
        yield
    finally:
        set_random_states(states, generators)


def own_generators(loader: Any) -> list[torch.Generator]:
    """The generators that the order of a DataLoader comes from: its own and its samplers', each once.

    >>> g, order = torch.Generator(), torch.Generator()
    >>> sampler = torch.utils.data.WeightedRandomSampler([0.5, 0.5], 2, generator=order)
    >>> loader = torch.utils.data.DataLoader([0, 1], sampler=sampler, generator=g)
    >>> own_generators(loader) == [g, order]
    True
    """
    found: list[torch.Generator] = []
    waiting, seen = [loader], set()
    while waiting:
        each = waiting.pop(0)
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        generator = getattr(each, "generator", None)
        if isinstance(generator, torch.Generator) and all(generator is not own for own in found):
            found.append(generator)
        waiting += [getattr(each, name, None) for name in ("sampler", "batch_sampler")]
    return found
