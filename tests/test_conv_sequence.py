"""Convolutions in one call: weights prepared once, all that may follow them, on every instruction set."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pyconvopt import _C

from .cases import CONV_CASES

ACTIVATIONS = (lambda y: y, F.relu, F.relu6, F.hardswish)
NONE = -1


def draw(*shape, seed=3):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rows(x):
    return x.permute(0, 2, 3, 1).contiguous().numpy()


def problem(case):
    """Input, weight, bias, the settings, and the convolution in double."""
    x = draw(case.batch, case.channels, case.height, case.width)
    weight = draw(case.out_channels, case.channels // case.groups, *case.kernel) * 0.2
    bias = draw(case.out_channels)
    geometry = (case.stride, case.padding, case.dilation, case.groups)
    return (
        x,
        weight,
        bias,
        geometry,
        F.conv2d(x.double(), weight.double(), bias.double(), *geometry),
    )


def assert_near(y, wanted):
    error = (torch.from_numpy(y).permute(0, 3, 1, 2).double() - wanted).abs().max().item()
    assert error <= 1e-4 * max(wanted.abs().max().item(), 1e-30)


@pytest.mark.parametrize("strides", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("case", CONV_CASES, ids=lambda case: case.name)
def test_one_convolution(case, strides, isa):
    """Each activation with and without residual; the kernel takes both, or they come after it."""
    x, weight, bias, geometry, wanted = problem(case)
    weight = weight.contiguous(memory_format=strides)
    other = draw(*wanted.shape, seed=4)
    for index, activation in enumerate(ACTIVATIONS):
        sequence = _C.ConvSequence(_C.PreparedWeights())
        source, residual = sequence.add_input(*x.shape), sequence.add_input(*wanted.shape)
        numbers = [
            sequence.add(source, each, weight.numpy(), bias.numpy(), *geometry, index, False)
            for each in (NONE, residual)
        ]
        sequence.finish(numbers)
        made = [np.empty(rows(other).shape, np.float32) for _ in numbers]
        sequence.run([rows(x), rows(other)], made)
        assert_near(made[0], activation(wanted))
        assert_near(made[1], activation(wanted + other.double()))


@pytest.mark.parametrize("case", CONV_CASES, ids=lambda case: case.name)
def test_pooled(case, isa):
    x, weight, bias, geometry, wanted = problem(case)
    if min(wanted.shape[2:]) < 2:
        pytest.skip("too small for a window")
    for index, activation in enumerate(ACTIVATIONS[:2]):
        pooled = F.max_pool2d(activation(wanted), 2)
        sequence = _C.ConvSequence(_C.PreparedWeights())
        source = sequence.add_input(*x.shape)
        result = sequence.add(source, NONE, weight.numpy(), bias.numpy(), *geometry, index, True)
        sequence.finish([result])
        assert sequence.size(result) == tuple(pooled.shape)
        y = np.empty(rows(pooled).shape, np.float32)
        sequence.run([rows(x)], [y])
        assert_near(y, pooled)


@pytest.mark.parametrize("batch", [1, 3, 30])
def test_a_dense_layer_reads_a_map_as_one_pixel(batch, isa):
    x, weight, bias = draw(batch, 20, 3, 5), draw(7, 300), draw(7)
    by_rows = weight.view(7, 20, 3, 5).permute(0, 2, 3, 1).reshape(7, 300, 1, 1)
    sequence = _C.ConvSequence(_C.PreparedWeights())
    source = sequence.add_input(*x.shape)
    one_pixel = ((1, 1), (0, 0), (1, 1), 1)
    arguments = (by_rows.numpy(), bias.numpy(), *one_pixel, 1, False)
    with pytest.raises(ValueError, match="the input has 20 channels, the weight is for 300"):
        sequence.add(source, NONE, *arguments)
    result = sequence.add(source, NONE, *arguments, flat=True)
    sequence.finish([result])
    assert sequence.size(result) == (batch, 7, 1, 1)
    y = np.empty((batch, 1, 1, 7), np.float32)
    sequence.run([rows(x)], [y])
    wanted = F.relu(F.linear(x.flatten(1).double(), weight.double(), bias.double()))
    assert_near(y, wanted[:, :, None, None])


def test_addresses():
    chain = Chain(3)
    wanted = chain.run()
    x, made = rows(chain.x), [np.full_like(y, np.nan) for y in wanted]
    chain.sequence.run_at([x.ctypes.data], [y.ctypes.data for y in made])
    for y, first in zip(made, wanted, strict=True):
        np.testing.assert_array_equal(y, first)
    with pytest.raises(ValueError, match="the sequence has 1 inputs and"):
        chain.sequence.run_at([], [y.ctypes.data for y in made])


class Chain:
    """Convolutions whose maps live for different times, and the same with torch in double.

    Every step reads one of the last maps and adds one of them or none; a few come out.
    """

    def __init__(self, seed: int, batch: int = 2, size: int = 9, weights=None) -> None:
        generator = torch.Generator().manual_seed(seed)

        def choose(count):
            return int(torch.randint(count, (), generator=generator))

        self.sequence = _C.ConvSequence(weights or _C.PreparedWeights())
        self.x = draw(batch, 16, size, size, seed=seed)
        values = [self.x.double()]
        assert self.sequence.add_input(*self.x.shape) == 0
        self.kept = []
        for _ in range(12):
            source = len(values) - 1 - choose(min(3, len(values)))
            residual = len(values) - 1 - choose(min(4, len(values))) if choose(2) else NONE
            taps = (1, 3)[choose(2)]
            weight = torch.randn(16, 16, taps, taps, generator=generator) * 0.2
            self.kept.append(weight)
            settings = ((1, 1), (taps // 2, taps // 2), (1, 1), 1)
            index = choose(4)
            self.sequence.add(source, residual, weight.numpy(), None, *settings, index, False)
            y = F.conv2d(values[source], weight.double(), padding=taps // 2)
            if residual != NONE:
                y = y + values[residual]
            values.append(ACTIVATIONS[index](y))
        self.results = sorted({len(values) - 1, 1 + choose(12), 1 + choose(12)})
        self.sequence.finish(self.results)
        self.wanted = [values[i] for i in self.results]

    def run(self):
        made = [np.full(rows(y).shape, np.nan, np.float32) for y in self.wanted]
        self.sequence.run([rows(self.x)], made)
        return made


@pytest.mark.parametrize("seed", range(20))
def test_maps_that_share_memory(seed):
    chain = Chain(seed)
    for _ in range(2):
        for y, wanted in zip(chain.run(), chain.wanted, strict=True):
            assert_near(y, wanted)


def test_several_threads_at_once():
    chain = Chain(1, batch=1, size=17)
    first = chain.run()
    results: list = [None] * 4

    def work(number):
        results[number] = [chain.run() for _ in range(5)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for made in results:
        for each in made:
            assert all(np.array_equal(a, b) for a, b in zip(each, first, strict=True))


def test_one_copy_of_the_same_weights():
    weights = _C.PreparedWeights()
    weight = draw(32, 32, 3, 3).numpy()
    for batch in (1, 2, 8):
        sequence = _C.ConvSequence(weights)
        sequence.add_input(batch, 32, 16, 16)
        sequence.add(0, NONE, weight, None, (1, 1), (1, 1), (1, 1), 1, 0, False)
        kept = weights.floats()
        assert kept >= weight.size
        if batch == 1:
            first = kept
    assert kept == first


def test_no_images():
    sequence = _C.ConvSequence(_C.PreparedWeights())
    sequence.add_input(0, 16, 8, 8)
    sequence.add(0, NONE, draw(16, 16, 3, 3).numpy(), None, (1, 1), (1, 1), (1, 1), 1, 0, False)
    sequence.finish([1])
    empty = np.empty((0, 8, 8, 16), np.float32)
    sequence.run([empty], [empty.copy()])


def test_refused():
    weight, settings = draw(16, 16, 3, 3).numpy(), ((1, 1), (1, 1), (1, 1), 1)
    sequence = _C.ConvSequence(_C.PreparedWeights())
    sequence.add_input(1, 16, 8, 8)
    for arguments, message in (
        ((1, NONE, weight, None, *settings, 0, False), "there are values 0 to 0, got 1"),
        ((0, 3, weight, None, *settings, 0, False), "there are values 0 to 0, got 3"),
        ((0, NONE, weight[:, :8], None, *settings, 0, False), "16 channels, the weight is for 8"),
        ((0, NONE, weight, weight[0, 0, 0], *settings, 0, False), "bias must have one element"),
        ((0, NONE, weight, None, *settings, 9, False), "no activation 9"),
        ((0, NONE, weight, None, *settings, 2, True), "pooling goes with ReLU"),
        ((0, 0, weight, None, *settings, 0, True), "expected 1 x 16 x 4 x 4 and no pooling"),
        ((0, NONE, weight, None, (0, 1), *settings[1:], 0, False), "stride must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            sequence.add(*arguments)
    with pytest.raises(TypeError):
        sequence.add(0, NONE, weight.astype(np.float64), None, *settings, 0, False)
    assert sequence.add(0, NONE, weight, None, *settings, 0, False) == 1
    x, y = np.zeros((1, 8, 8, 16), np.float32), np.zeros((1, 8, 8, 16), np.float32)
    with pytest.raises(ValueError, match="has 1 inputs and 0 results"):
        sequence.run([x], [y])
    for results, message in (([0], "is an input"), ([7], "values 0 to 1, got 7")):
        with pytest.raises(ValueError, match=message):
            sequence.finish(results)
    sequence.finish([1])
    with pytest.raises(ValueError, match="finished"):
        sequence.add(0, NONE, weight, None, *settings, 0, False)
    for inputs, results, message in (
        ([], [y], "1 inputs and 1 results"),
        ([x[:, :4]], [y], "an input must be a map of 1 x 8 x 8 x 16"),
        ([x], [y[:, :4]], "a result must be"),
    ):
        with pytest.raises(ValueError, match=message):
            sequence.run(inputs, results)
    with pytest.raises(TypeError):
        sequence.run([x], [y.astype(np.float64)])
    with pytest.raises(TypeError):
        sequence.run([x], [np.zeros((1, 8, 16, 8), np.float32).transpose(0, 1, 3, 2)])
