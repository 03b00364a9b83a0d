"""The batches of a run, epoch after epoch, and the place in them.

A pass is the data once through. An epoch is one pass, or `steps_per_epoch` batches, which may end
in the middle of a pass: the next epoch goes on there, and a pass that ends is followed by another.

The place can be written down and found again. An `ArrayLoader` is asked for the batch itself: its
order is a function of seed and epoch. A `DataLoader` or a generator is read again from the start of
the pass, with the random states that were there, and the batches that were seen are thrown away. So
what comes next is the same bits if the source itself depends on nothing but those random states.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from pyconvopt.data import checks
from pyconvopt.data.loader import ArrayLoader, BatchSource, Loader, SeededOrder
from pyconvopt.randomness import own_generators, random_states, set_random_states


class Stream:
    """Batches of a loader, an epoch at a time.

    Args: loader, steps_per_epoch (None: an epoch is one pass).

    >>> stream = Stream(ArrayLoader([[0.0], [1.0], [2.0]], batch_size=1), steps_per_epoch=2)
    >>> [[int(x) for x in stream.epoch()] for _ in range(3)]
    [[0, 1], [2, 0], [1, 2]]
    """

    def __init__(self, loader: Loader, steps_per_epoch: int | None = None) -> None:
        if steps_per_epoch is not None:
            steps_per_epoch = checks.whole("steps_per_epoch", steps_per_epoch)
        self.loader = loader
        self.steps_per_epoch = steps_per_epoch
        self.iterator: Iterator[Any] | None = None
        self.taken = 0  # batches of the present pass
        self.read = 0  # batches of all passes, for a source that is read once
        self.random_at_start: dict[str, Any] = {}

    def __len__(self) -> int:
        """The batches of an epoch.

        Errors: TypeError if nobody knows.
        """
        if self.steps_per_epoch is not None:
            return self.steps_per_epoch
        return len(self.loader)  # type: ignore[arg-type]

    def epoch(self, first: int = 0) -> Iterator[Any]:
        """The batches of an epoch, from its number `first` on.

        Errors: ValueError if the data end before the epoch does.
        """
        batch = first
        while self.steps_per_epoch is None or batch < self.steps_per_epoch:
            if self.iterator is None:
                self.begin_pass()
            assert self.iterator is not None
            for parts in self.iterator:
                self.taken += 1
                batch += 1
                yield parts
                if batch == self.steps_per_epoch:
                    return
            self.end_pass(batch)
            if self.steps_per_epoch is None:
                return

    def begin_pass(self) -> None:
        """Open the data from their start."""
        # A DataLoader draws the seed of its order when it is opened.
        if not isinstance(self.loader, ArrayLoader):
            self.random_at_start = random_states(self.generators)
        self.iterator = iter(self.loader)

    def end_pass(self, batch: int) -> None:
        """The data are through: the next batch opens them again, if that gives any."""
        once = isinstance(self.loader, BatchSource) and self.loader.is_read_once
        if not self.taken or (once and self.steps_per_epoch is not None):
            raise ValueError(
                f"the data ended after {self.read + self.taken} batches, {batch} into an epoch"
                + (f" of {self.steps_per_epoch}" if self.steps_per_epoch else "")
                + ("; a generator is read once: give a function that makes one" if once else "")
            )
        self.read += self.taken
        self.iterator, self.taken = None, 0

    def state_dict(self) -> dict[str, Any]:
        """The place, as a checkpoint holds it."""
        state: dict[str, Any] = {
            "taken": self.taken,
            "read": self.read,
            "open": self.iterator is not None,
            "batch_size": self.loader.batch_size,
            "steps_per_epoch": self.steps_per_epoch,
        }
        if isinstance(self.loader, ArrayLoader):
            state |= {
                "samples": self.loader.samples,
                "seed": self.loader.seed,
                "epoch": self.loader.epoch,
            }
            return state
        if self.iterator is not None:
            state["random"] = self.random_at_start
        elif self.generators:
            state["generators"] = [each.get_state() for each in self.generators]
        if self.order is not None:
            state["epoch"] = self.order.epoch
        return state

    @property
    def generators(self) -> list[torch.Generator]:
        """Those of a DataLoader's own, which its order comes from."""
        return own_generators(self.loader)

    @property
    def order(self) -> SeededOrder | None:
        """The order of a DataLoader, if seed and epoch make it."""
        sampler = getattr(self.loader, "sampler", None)
        return sampler if isinstance(sampler, SeededOrder) else None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a place; the random states are left as they come.

        Errors: ValueError if the data are not of the size they were.
        """
        now = self.state_dict()
        for key in ("samples", "batch_size", "steps_per_epoch"):
            if now.get(key) != state.get(key):
                raise ValueError(
                    f"the data are not those of the checkpoint: {key} was {state.get(key)}, now it "
                    f"is {now.get(key)}"
                )
        generators = self.generators
        kept = (state.get("random") or state).get("generators", ())
        if len(kept) != len(generators):
            raise ValueError(
                "the data are not those of the checkpoint: their order came from "
                f"{len(kept)} generators of their own, now it comes from {len(generators)}"
            )
        self.taken, self.read, self.iterator = state["taken"], state["read"], None
        if isinstance(self.loader, ArrayLoader):
            self.loader.seed, self.loader.epoch = state["seed"], state["epoch"]
            if state["open"]:
                self.iterator = self.loader.batches(state["epoch"] - 1, self.taken)
            return
        once = isinstance(self.loader, BatchSource) and self.loader.is_read_once
        if self.order is not None:
            self.order.epoch = state["epoch"] - int(state["open"])  # which opening it counts again
        for each, its_state in zip(generators, state.get("generators", ()), strict=False):
            each.set_state(its_state)
        if not state["open"] and not once:
            return
        if state["open"]:
            set_random_states(state["random"], generators)
        self.begin_pass()
        assert self.iterator is not None
        for seen in range(self.taken + self.read * once):
            if next(self.iterator, None) is None:
                raise ValueError(
                    f"the data are not those of the checkpoint: they end after {seen} batches, and "
                    f"{self.taken + self.read * once} were read"
                )
