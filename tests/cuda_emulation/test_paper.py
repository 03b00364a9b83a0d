"""The model on paper: what the kernels move in the emulation, beside the least; and its table."""

from __future__ import annotations

import pytest

from benchmarks.gpu.problems import A100, Shape, kernel
from tests.cuda_emulation import paper


@pytest.fixture(scope="module")
def counted(cuda):
    return {c.kernel.name: c for c in paper.counts(cuda)}


def test_maps_are_moved_once(counted):
    """Batch norm, dropout, pooling and the optimisers: within 10 % of the least bytes, all asked for.

    The backward of pooling reads the pooled lines for both of the lines that each stands for, in
    warps of one block.
    """
    passes = [c for name, c in counted.items() if not name.startswith(("depthwise", "dense"))]
    assert len(passes) == 10
    for done in passes:
        again = 5 / 16 if done.kernel.name == "max-pool, backward" else 0
        assert 0.99 <= done.moved <= 1.1 + again / done.kernel.maps, done
        assert done.coalesced >= 0.99, done


def test_no_bank_conflicts(counted):
    assert not [c for c in counted.values() if c.conflicts]


def test_convolutions_ask_for_whole_sectors(counted):
    """But for the weight gradient's end, which writes in the order of the weights."""
    for name, done in counted.items():
        if name.startswith("depthwise"):  # every tap reads the map, from the cache
            assert done.coalesced >= 0.9 and done.moved <= (9 + 1) / 2 * 1.1, done
        if name.startswith("dense"):
            assert done.coalesced >= (0.6 if "weight" in name else 0.9), done


def test_the_page_has_this_table(counted):
    made = paper.table(list(counted.values()))
    assert paper.in_page() == made, "python -m tests.cuda_emulation.paper --write"


def test_figures_worked_by_hand():
    shape = Shape(2, 4, 8, 8)  # 512 elements
    norm = kernel("batch norm + ReLU, forward")
    assert norm.bytes(shape) == 3 * 512 * 4
    assert norm.seconds(shape, A100) == pytest.approx(6144 / 2039e9)
    dense = kernel("dense, forward, float32")
    assert dense.bytes(shape) == 2 * 2048 + 9 * 16 * 4
    assert dense.flops(shape) == 512 * 2 * 9 * 4
    from_moments = kernel("batch norm + ReLU, forward, from moments")
    assert from_moments.bytes(shape) == 2 * 512 * 4 + 2 * 2 * 4 * 4  # 128 pixels: 2 chunks
    told = kernel("dense, forward with moments, float32")
    assert told.bytes(shape) - dense.bytes(shape) == 2 * 2 * 4 * 4
    large = Shape(32, 512, 56, 56)
    assert dense.seconds(large, A100) == pytest.approx(dense.flops(large) / 19.5e12)
