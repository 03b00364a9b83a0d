"""Where there is no memory: an error that says how much was wanted, and all works as before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import pyconvopt as pco
from pyconvopt import _C

OPS = torch.ops.pyconvopt
LINUX = sys.platform.startswith("linux")


def image(*shape):
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def hyper(stride=1, padding=0, dilation=1, groups=1):
    return (stride, stride, padding, padding, dilation, dilation, groups)


# --- more bytes than can be counted


@pytest.mark.parametrize("exponent", range(26, 31))
def test_outputs_of_huge_padding_are_errors(exponent):
    """At 2^28 the bytes are 2^64 and some: what is left of them would be a small map."""
    x, weight = image(1, 16, 4, 4), torch.ones(16, 16, 3, 3)
    with pytest.raises(RuntimeError):
        pco.nn.Conv2d(16, 16, 3, padding=1 << exponent)(x)
    for call in (
        lambda: OPS.conv2d(x, weight, None, *hyper(padding=1 << exponent), False),
        lambda: OPS.conv2d_moments(x, weight, None, *hyper(padding=1 << exponent)),
        lambda: OPS.conv2d_max_pool(x, weight, None, *hyper(padding=1 << exponent), True),
    ):
        with pytest.raises(RuntimeError, match=r"out of memory.*shape \[1, 16, \d+, \d+\]"):
            call()


def test_empty_outputs_whose_strides_overflow_are_errors():
    x, weight = image(0, 16, 4, 4), torch.ones(16, 16, 3, 3)
    with pytest.raises(RuntimeError, match="more bytes than"):
        OPS.conv2d(x, weight, None, *hyper(padding=1 << 30), False)


def test_gradients_of_impossible_sizes_are_errors():
    weight, gradient = torch.ones(16, 16, 1, 1), image(1, 16, 1, 1)
    with pytest.raises(RuntimeError, match="a size is negative"):
        OPS.conv2d_data_gradient(gradient, weight, -1, -1, *hyper(padding=1))
    with pytest.raises(RuntimeError, match="out of memory"):
        OPS.avg_pool2d_backward(gradient, *2 * [1 << 40], *4 * [1], 0, 0, True, 0)
    with pytest.raises(RuntimeError, match="padding of at most half the kernel"):
        OPS.avg_pool2d_backward(gradient, 4, 4, *4 * [1], 1 << 62, 1 << 62, True, 0)


def test_weights_of_stride_zero_cannot_overflow_what_is_made_of_them():
    channels = 1 << 25
    weight = torch.zeros(1).expand(channels, channels, 3, 3)
    x = torch.zeros(1).expand(1, channels, 0, 0)
    with pytest.raises(RuntimeError, match="weight of at most 281474976710656 elements"):
        OPS.conv2d(x, weight, None, *hyper(padding=1), False)


def test_sequences_of_maps_that_no_memory_holds_are_refused():
    def sequence(batch, padding):
        made = _C.ConvSequence(_C.PreparedWeights())
        value = made.add_input(batch, 16, 4, 4)
        weight = np.zeros((16, 16, 3, 3), np.float32)
        options = ((1, 1), 1, 0, False)
        value = made.add(value, -1, weight, None, (1, 1), 2 * (padding,), *options)
        return made, made.add(value, -1, weight, None, 2 * (padding,), (0, 0), *options)

    with pytest.raises(ValueError, match="no memory holds a map of 1 x 16 x 536870914 x 536870914"):
        sequence(1, 1 << 28)
    with pytest.raises(ValueError, match="no memory holds a map"):
        _C.ConvSequence(_C.PreparedWeights()).add_input(1, 1 << 40, 1 << 40, 1)
    made, value = sequence(1, 1 << 25)
    made.finish([value])
    x = np.zeros((1, 4, 4, 16), np.float32)
    height, width = made.size(value)[2:]
    with pytest.raises(MemoryError, match=r"cannot allocate \d+ bytes of working memory"):
        made.run([x], [np.zeros((1, height, width, 16), np.float32)])


# --- less memory than is wanted

WATCHED = """
import os, threading, time

def watch():  # what was granted and is not there ends this process, not the machine
    while True:
        with open("/proc/self/statm") as file:
            if int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") > 2 << 30:
                os._exit(3)
        time.sleep(0.02)

threading.Thread(target=watch, daemon=True).start()
import resource
import torch
import pyconvopt as pco

OPS = torch.ops.pyconvopt

def image(*shape):
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)

def error(call):
    try:
        call()
    except (RuntimeError, MemoryError) as error:
        return str(error)
    raise SystemExit("granted")

def leave(megabytes):
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * os.sysconf("SC_PAGESIZE")
    resource.setrlimit(resource.RLIMIT_AS, (held + (megabytes << 20), resource.RLIM_INFINITY))
"""


def run_watched(script: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED + script], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def overcommits_by_judgement() -> bool:
    setting = Path("/proc/sys/vm/overcommit_memory")
    return setting.exists() and setting.read_text().strip() != "1"


@pytest.mark.skipif(not overcommits_by_judgement(), reason="the system grants any memory")
def test_more_than_the_machine_has_is_an_error_before_anything_is_written():
    run_watched("""
sizes = dict(line.split(":") for line in open("/proc/meminfo"))
machine = sum(int(sizes[name].split()[0]) << 10 for name in ("MemTotal", "SwapTotal"))
x, weight = image(1, 16, 4, 4), torch.ones(16, 16, 3, 3)
wanted = pco.functional.conv2d(x, weight, None, 1, 1)
large = image(4, 16, 512, 512)
norm = pco.nn.BatchNorm2d(16).eval()
for times in (1.05, 2.5, 100):
    side = int((times * machine / 64) ** 0.5) // 2 * 2
    hyper = (1, 1, (side - 2) // 2, (side - 2) // 2, 1, 1, 1)
    with torch.no_grad():
        text = error(lambda: OPS.conv2d(x, weight, None, *hyper, False))
        assert f"out of memory: cannot allocate {64 * side * side} bytes" in text, text
        assert f"[1, 16, {side}, {side}]" in text, text
        error(lambda: pco.functional.conv2d(x, weight, None, 1, (side - 2) // 2))
        held = pco._C.map_bytes()
        for _ in range(3):
            norm(large)  # maps are taken and given back as before
        assert pco._C.map_bytes() <= max(held, 96 << 20), (held, pco._C.map_bytes())
    assert torch.equal(pco.functional.conv2d(x, weight, None, 1, 1), wanted)
""")


@pytest.mark.skipif(not LINUX, reason="needs limits of a process's addresses")
def test_errors_name_the_bytes_under_a_limit():
    run_watched("""
x = image(1, 1024, 4, 4)
maps = torch.empty((1, 16, 2048, 2048), memory_format=torch.channels_last).fill_(1.0)
weight = torch.ones(1024, 1024, 5, 5)  # packed 100 MB
vectors = [torch.ones(16) for _ in range(2)]
calls = [
    lambda: OPS.relu(maps),
    lambda: OPS.dropout(maps, 0.5, 1, 1),
    lambda: OPS.activation(maps, 0, 1.0, 1.0),
    lambda: OPS.batch_norm_again(maps, None, None, *vectors, 0),
    lambda: pco.functional.batch_norm(maps, None, None, training=True),
]
leave(64)
for call in calls:
    said = error(call)
    assert "out of memory: cannot allocate 268435456 bytes for a tensor of shape" in said, said
assert OPS.relu(x).shape == x.shape
strided = lambda: OPS.conv2d(x, weight, None, 2, 2, 2, 2, 1, 1, 1, False)
said = error(strided)
assert "out of memory: cannot allocate " in said and "bytes of working memory" in said, said
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
assert OPS.relu(maps).shape == maps.shape
assert strided().shape == (1, 1024, 2, 2)
""")
