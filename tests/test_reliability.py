"""Use as it comes in programs: forks, threads, empty maps, sizes that overflow."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
import torch

import pyconvopt as pco
from pyconvopt import _C

CHANNELS_LAST = torch.channels_last


def step(seed: int) -> list[torch.Tensor]:
    """Output and gradients of a small network of kernels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 16, 12, 12, generator=generator).contiguous(memory_format=CHANNELS_LAST)
    w = torch.randn(32, 16, 3, 3, generator=generator).requires_grad_()
    b = torch.zeros(32, requires_grad=True)
    y = pco.functional.conv2d_max_pool(x, w, b, activation="relu")
    y.sum().backward()
    return [y.detach(), w.grad, b.grad]


def test_a_forked_process_goes_on():
    wanted = step(0)
    child = os.fork()
    if child == 0:
        same = all(torch.equal(a, b) for a, b in zip(step(0), wanted, strict=True))
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert all(torch.equal(a, b) for a, b in zip(step(0), wanted, strict=True))


def test_data_loader_workers():
    step(0)
    images = torch.utils.data.TensorDataset(torch.randn(8, 16, 6, 6))
    convolution = pco.nn.Conv2d(16, 16, 3)

    def collate(batch):
        with torch.no_grad():
            return convolution(torch.stack([x for (x,) in batch]))

    loader = torch.utils.data.DataLoader(images, 4, num_workers=2, collate_fn=collate, timeout=60)
    assert [tuple(batch.shape) for batch in loader] == [(4, 16, 4, 4)] * 2


def test_calls_from_several_threads():
    wanted = {seed: step(seed) for seed in range(4)}
    wrong: list[int] = []

    def work(seed: int) -> None:
        for _ in range(20):
            if not all(torch.equal(a, b) for a, b in zip(step(seed), wanted[seed], strict=True)):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_calls_leave_no_memory_behind():
    for _ in range(20):
        step(1)
    before = _C.arena_bytes()
    for _ in range(500):
        step(1)
    assert _C.arena_bytes() == before


def test_an_empty_gradient_is_zero():
    x = np.ones((0, 8, 8, 16), np.float32)
    g = np.ones((0, 6, 6, 16), np.float32)
    dw = _C.conv_weight_gradient(x, g, (3, 3), (1, 1), (0, 0), (1, 1), 1)
    assert dw.shape == (16, 3, 3, 16) and not dw.any()


@pytest.mark.parametrize("argument", ["stride", "padding", "dilation"])
def test_sizes_that_would_overflow_are_refused(argument):
    arguments = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)} | {argument: (1 << 40, 1)}
    x, w = np.zeros((1, 8, 8, 16), np.float32), np.zeros((16, 3, 3, 16), np.float32)
    with pytest.raises(ValueError, match=r"must be at most 2147483647, got 1099511627776"):
        _C.conv_forward(x, w, None, **arguments, groups=1, relu=False, pool=False)
