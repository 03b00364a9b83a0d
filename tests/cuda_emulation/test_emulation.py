"""The emulation finds what is wrong with a kernel, and computes what CUDA computes."""

from __future__ import annotations

import ctypes
import re

import pytest
import torch

from tests.cuda_emulation.library import HERE, KERNELS, MISSING, Library

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


@pytest.fixture(scope="module")
def library():
    return Library("recorded", (HERE / "wrong_kernels.cu", KERNELS / "errors.cu"))


def run(library, which):
    """The output of kernel number `which`, or the message that ended it."""
    values, output = torch.arange(64.0), torch.zeros(64)
    library.c.run_kernel.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    try:
        given = (
            library.register("input", values, writable=False),
            library.register("output", output),
        )
        code = library.c.run_kernel(which, *given)
    finally:
        library.c.emulation_forget()
    assert code in (0, 719)
    return library.c.emulation_message().decode() if code else output


@pytest.mark.parametrize(
    ("which", "told"),
    [
        # Whichever warp comes first: the neighbour's value is not there yet, or was not to be read yet.
        (0, r"race on byte \d+ of shared memory: .* no barrier between|has not written"),
        (
            2,
            r"race on byte \d+ of shared memory|has not written",
        ),  # a barrier of the warp is not enough
        (3, r"race on byte \d+ of shared memory: .* (writes what .* read|reads what .* written)"),
        (4, "24 of 64 threads wait at a barrier, 40 have left"),
        (5, "33 have left, the rest waits"),  # 32 of the other warp
        (6, "reads lane 20, which takes no part in it"),
        (7, "thread 0 of block 0 reads shared memory that its block has not written"),
        (8, "thread 63 of block 0 reads 4 bytes 256 bytes into input of 256 bytes"),
        (9, "writes to input, which is constant"),
        (10, "misaligned access of 8 bytes, 4 bytes into input"),
        (11, r"race on byte \d+ of output: thread \d+ of block \d writes what .* has written"),
        (13, "race on byte 0 of output"),  # atomic additions beside a plain read
    ],
)
def test_wrong_kernels_are_found(library, which, told):
    message = run(library, which)
    assert isinstance(message, str), "the kernel passed"
    assert re.search(told, message), message


def test_right_kernels_pass(library):
    x = torch.arange(64.0)
    assert torch.equal(run(library, 1), x + x.roll(-1))
    assert run(library, 12)[0] == 128  # 2 blocks count without a race

    lane = x % 32
    down = torch.where(lane < 28, lane + 4, lane)
    assert torch.equal(run(library, 14), down + 100 + 1000 + 10000 + 100000 * (x - lane))


def test_order_of_warps_and_blocks_is_drawn(library):
    """Seeds differ in who meets whom, so a race is told of different threads."""
    told = set()
    for seed in range(8):
        library.c.emulation_seed(seed)
        told.add(run(library, 11).split(":")[0])
    assert len(told) > 1


def test_counts_bytes_sectors_and_bank_conflicts(library):
    with library.tracing() as counted:
        run(library, 15)
    assert counted["read"] == counted["written"] == 64 * 4
    # Every lane reads a sector of its own; 8 different ones a warp, of which 4 bytes are asked for.
    assert counted["sectors"] == 2 * 8 + 2 * 4
    assert counted["asked"] == 2 * 8 * 4 + 2 * 32 * 4
    # All 32 lanes of a warp in one bank: 31 repetitions a warp, on writing and on reading.
    assert counted["bank_conflicts"] == 2 * 2 * 31


def test_a_launch_that_cuda_refuses_is_refused(library):
    library.c.run_kernel.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    assert library.c.run_kernel(16, None, None) == 9
    with pytest.raises(RuntimeError, match="invalid configuration"):
        library.check(9)
