"""What layers draw in a forward pass: a function of (seed, step, layer, element) alone.

The training loop opens `drawing(seed, step)` around a forward pass. Within, a drawing layer's key is a
hash of these numbers, of its kind and of its place among those of its kind that were called: no state of
a generator, no layer of another kind, no size of what was drawn before changes it. Outside the key is a
number of torch's generator, so that `torch.manual_seed` rules.

Of a key and an element's number Philox4x32-10 (csrc/kernels/dropout.hpp) makes the element's mask. The
number is the element's place in the joined batch: with `first_sample` samples before this tensor's, in an
accumulated update or in other processes, it starts at theirs. A tensor in channels_last counts its
elements as they lie in memory, any other, strided or not, in its logical order; batches come first in both.

Within, torch's own generator is seeded by the same numbers, for layers that are not this library's, and
afterwards as it was. Each key costs it one number, the call's name: activation checkpointing puts the
generator back when it runs a forward pass again in backward, and by its name the call finds its key.
"""

from __future__ import annotations

import math
import operator
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

WORD, LONG = 2**32 - 1, 2**64 - 1
FAR = 1 << 24
"""Elements before a tensor's first that the kernel runs over: 5 ms, and 128 MB for a moment."""
BLOCK = 1 << 16
"""Normal numbers of one seed, and Philox blocks computed at once."""


class Draw(NamedTuple):
    """The key of one call, and the samples: how many come before the tensor's, and are in it."""

    key: int
    first_sample: int = 0
    samples: int = 0

    def start(self, shape: Sequence[int]) -> int:
        """The number of the first element of a tensor; 0 if its rows are no samples."""
        if not self.first_sample or not shape or not self.samples or shape[0] % self.samples:
            return 0
        return math.prod(shape) // self.samples * self.first_sample


class _Pass:
    """A forward pass: keys by kind and place, and which call got which."""

    def __init__(self, base: int, first_sample: int, samples: int) -> None:
        self.base, self.samples = base, (first_sample, samples)
        self.calls: Counter[str] = Counter()
        self.drawn: dict[int, Draw] = {}

    def draw(self, kind: str, name: int) -> Draw:
        if name not in self.drawn:
            number = zlib.crc32(kind.encode())
            self.drawn[name] = Draw(mixed(self.base, number, self.calls[kind]) >> 1, *self.samples)
            self.calls[kind] += 1
        return self.drawn[name]


_active: _Pass | None = None
_last: _Pass | None = None  # whose forward may run again, in backward


@contextmanager
def drawing(*numbers: int, first_sample: int = 0, samples: int = 0) -> Iterator[None]:
    """Within, what layers draw follows from these numbers, as a rule (seed, step).

    Args: first_sample (0; how many samples of the joined batch come before those at hand), samples
    (those at hand; needed with `first_sample`).

    torch's generator is afterwards as it was.

    >>> import torch, pyconvopt as pco
    >>> x, masks = torch.ones(6, 50), []
    >>> for begin in (0, 0, 2):
    ...     with drawing(0, 7, first_sample=begin, samples=6 - begin):
    ...         masks.append(pco.functional.dropout(x[begin:]))
    >>> torch.equal(masks[0], masks[1]), torch.equal(masks[0][2:], masks[2])
    (True, True)
    """
    global _active, _last
    # Python's own: NumPy's wrap, or overflow.
    base, first_sample = mixed(*map(operator.index, numbers)), operator.index(first_sample)
    before = _active
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(mixed(base, first_sample) >> 1)
    _active = this = _Pass(base, first_sample, samples)
    try:
        yield
    finally:
        _active, _last = before, this
        generator.set_state(state)


def draw(kind: str) -> Draw:
    """The key of a call of a layer of that kind."""
    name = draw_seed()
    if _active is not None:
        return _active.draw(kind, name)
    known = None if _last is None else _last.drawn.get(name)
    return Draw(name) if known is None else known


def draw_seed() -> int:
    """A seed from torch's generator."""
    return int(torch.empty((), dtype=torch.int64).random_())


def mixed(*numbers: int) -> int:
    """64 bits from whole numbers, by SplitMix64's function (Steele, Lea and Flood 2014).

    >>> mixed(0, 1) != mixed(1, 0) != mixed(1)
    True
    """
    state = len(numbers)
    for number in numbers:
        state = ((state ^ (number & LONG)) + 0x9E3779B97F4A7C15) & LONG
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & LONG
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & LONG
        state ^= state >> 31
    return state


# --- numbers of a key ------------------------------------------------------------------------------


def kept(shape: Sequence[int], p: float, draw: Draw, device: torch.device | str = "cpu") -> Tensor:
    """True where an element is kept, with probability 1 − p; elements counted as in C."""
    count, start = math.prod(shape), draw.start(shape)
    if start > FAR:
        return _kept_far_on(start, count, p, draw.key).to(device).view(*shape)
    ones = torch.ones(start + count, device=device)
    # Kept elements are scaled by 1/(1 − p): not 0.
    return (torch.ops.pyconvopt.dropout(ones, p, draw.key, 0)[start:] != 0).view(*shape)


def normal(shape: Sequence[int], draw: Draw) -> Tensor:
    """Standard normal numbers, float32 on the CPU; elements counted as in C.

    torch's, each `BLOCK` of them of a seed of its own. It draws 16 at once, and a rest otherwise.
    """
    count, start = math.prod(shape), draw.start(shape)
    first, end = start // BLOCK * BLOCK, start + count
    values, generator = torch.empty(-(-(end - first) // 16) * 16), torch.Generator()
    for number, block in enumerate(values.split(BLOCK), first // BLOCK):
        block.normal_(generator=generator.manual_seed(mixed(draw.key, number) >> 1))
    return values[start - first : end - first].view(*shape)


def ordered(x: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape in which an elementwise layer counts the elements of `x`, and its axes from there."""
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        n, c, h, w = x.shape
        return (n, h, w, c), (0, 3, 1, 2)
    return tuple(x.shape), tuple(range(x.dim()))


def _kept_far_on(start: int, count: int, p: float, key: int) -> Tensor:
    """`kept` without the elements before the first: the kernel's formula in torch's integers."""
    threshold, groups = math.ceil(p * 2**24), (start // 64, -(-(start + count) // 64))
    found = torch.empty((groups[1] - groups[0], 4, 16), dtype=torch.bool)
    for part, first in zip(found.split(BLOCK // 16), range(*groups, BLOCK // 16), strict=True):
        counter = torch.arange(16 * first, 16 * (first + len(part)))
        for j, word in enumerate(_philox(counter, key)):
            part[:, j] = ((word >> 8) >= threshold).view(-1, 16)
    return found.flatten()[start - 64 * groups[0] :][:count]


def _philox(counter: Tensor, key: int) -> list[Tensor]:
    """The four words of Philox4x32-10 blocks; products of int64 wrap as unsigned ones do."""
    words = [counter & WORD, counter >> 32, torch.zeros_like(counter), torch.zeros_like(counter)]
    low, high = key & WORD, (key >> 32) & WORD
    for _ in range(10):
        product0, product1 = words[0] * 0xD2511F53, words[2] * 0xCD9E8D57
        words = [
            ((product1 >> 32) & WORD) ^ words[1] ^ low,
            product1 & WORD,
            ((product0 >> 32) & WORD) ^ words[3] ^ high,
            product0 & WORD,
        ]
        low, high = (low + 0x9E3779B9) & WORD, (high + 0xBB67AE85) & WORD
    return words
