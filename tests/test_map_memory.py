"""The memory of large maps: taken again, never shared by two, given back when asked."""

from __future__ import annotations

import gc
import os
import threading

import pytest
import torch

import pyconvopt as pco
from pyconvopt import _C

LARGE, SMALL = (8, 64, 32, 32), (1, 64, 16, 16)  # 2 MiB and 64 KiB
torch_has_it = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 11)
pytestmark = pytest.mark.skipif(
    not (torch_has_it and pco.settings.current()["keep_memory"]),
    reason="needs torch 2.11 and glibc's malloc",
)


def image(shape=LARGE):
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def is_kept(map_: torch.Tensor) -> bool:
    """Whether it lies in the memory of maps: torch can only resize its own."""
    return not map_.untyped_storage().resizable()


def test_large_maps_are_taken_again():
    x, pool = image((8, 64, 64, 64)), pco.nn.MaxPool2d(2)
    first, second = pool(x), pool(x)
    assert is_kept(first) and first.data_ptr() % 64 == 0 and not is_kept(x)
    place = second.data_ptr()
    del second
    assert pool(x).data_ptr() == place
    assert torch.equal(first, torch.nn.functional.max_pool2d(x, 2))
    assert not is_kept(pool(image(SMALL)))


def test_maps_of_several_threads_do_not_meet():
    layer = pco.nn.Conv2d(64, 64, 3, padding=1).eval()
    inputs = [image() for _ in range(4)]
    with torch.no_grad():
        wanted = [layer(x) for x in inputs]
    wrong = []

    def work(number):
        with torch.no_grad():
            for _ in range(20):
                if not torch.equal(layer(inputs[number]), wanted[number]):
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_forked_process_has_its_own():
    layer = pco.nn.Conv2d(64, 64, 3, padding=1)
    x = image()
    with torch.no_grad():
        y = layer(x)
        kept = y.clone()
        child = os.fork()
        if not child:
            again = layer(x)
            good = torch.equal(again, kept) and again.data_ptr() != y.data_ptr()
            y.zero_()
            os._exit(0 if good else 1)
        assert os.waitpid(child, 0)[1] == 0
    assert torch.equal(y, kept)


def test_it_is_given_back():
    def resident() -> float:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20

    x = image((64, 64, 64, 64))  # 64 MiB
    with torch.no_grad():
        maps = [pco.nn.BatchNorm2d(64).eval()(x) for _ in range(4)]
    assert all(map(is_kept, maps)) and _C.map_bytes() >= 256 << 20
    before = resident()
    del maps
    gc.collect()
    with pco.settings(keep_memory=False):
        assert before - resident() > 200
        assert not is_kept(pco.nn.BatchNorm2d(64).eval()(image()))


def test_they_are_tensors_like_others(tmp_path):
    y = pco.nn.Conv2d(64, 64, 1)(image()).detach()
    assert is_kept(y)
    torch.save(y, tmp_path / "y.pt")
    assert torch.equal(torch.load(tmp_path / "y.pt", weights_only=True), y)
    assert torch.equal(torch.from_numpy(y.numpy().copy()), y)
    copied = y.clone()
    y.share_memory_()
    assert y.is_shared() and torch.equal(y, copied)
    view = y[1:, :, ::2]
    del y
    assert torch.equal(view, copied[1:, :, ::2])
