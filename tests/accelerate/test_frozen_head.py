"""Means over maps and dense layers of frozen models go on in the call of the convolutions before them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pyconvopt as pco
from pyconvopt.accelerate import frozen

from ..nn.helpers import assert_same
from .networks import image
from .test_frozen import BOUND, sequence_of

CHANNELS = 24


class Head(nn.Module):
    """One convolution, and what is to follow it."""

    def __init__(self, head) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.head = head

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)))


HEADS = {
    "pool, flatten, dense": lambda: nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(CHANNELS, 10)
    ),
    "two dense layers": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(CHANNELS * 35, 40), nn.ReLU(inplace=True), nn.Linear(40, 7)
    ),
    "no bias, hard swish": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(CHANNELS * 35, 40, bias=False), nn.Hardswish(), nn.Linear(40, 7)
    ),
    "a pool to one pixel": lambda: nn.AdaptiveAvgPool2d((1, 1)),
    "a mean that keeps its dimensions": lambda: lambda x: x.mean((2, 3), keepdim=True),
    "a mean of named dimensions": lambda: lambda x: torch.mean(x, dim=(-1, -2)),
}


def run(fast, x):
    """The second call is the first that runs what was chosen."""
    with torch.inference_mode():
        fast(x)
        return fast(x)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("batch", [1, 3, 20])
@pytest.mark.parametrize("name", HEADS)
def test_one_call(name, batch, memory_format, isa):
    model = Head(HEADS[name]()).eval()
    x = image(batch, CHANNELS, 5, 7).contiguous(memory_format=memory_format)
    fast = pco.accelerate(model, frozen=True)
    y = run(fast, x)
    assert_same(y, model(x), BOUND)
    if isa != "reference":
        ((part,),) = sequence_of(fast).known.values()
        assert isinstance(part, frozen.Native)


def test_dense_layers_alone():
    model = nn.Sequential(nn.Linear(30, 20), nn.ReLU6(), nn.Linear(20, 4)).eval()
    fast = pco.accelerate(model, frozen=True)
    for x in (torch.randn(3, 30), torch.randn(30), torch.randn(2, 5, 30), torch.randn(2, 3, 5, 30)):
        assert_same(run(fast, x), model(x), BOUND)
    x = torch.randn(30, 3).t()  # its rows are not in a row
    assert_same(run(fast, x), model(x), BOUND)


def test_maps_of_several_sizes_and_types():
    model = Head(
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 4))
    ).eval()
    fast = pco.accelerate(model, frozen=True)
    for size in ((5, 7), (1, 1), (40, 40), (2, 9)):  # no filter has 1600 taps: torch takes the mean
        x = image(2, CHANNELS, *size)
        assert_same(run(fast, x), model(x), BOUND)
    single = image(1, CHANNELS, 5, 7)[0]
    with pytest.raises(RuntimeError, match="mat1 and mat2"):  # flattened from dimension 1 on
        model(single)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        fast(single)


def test_a_large_dense_layer_is_not_copied():
    model = Head(nn.Sequential(nn.Flatten(), nn.Linear(CHANNELS * 35, 6000), nn.ReLU())).eval()
    fast = pco.accelerate(model, frozen=True)
    x = image(2, CHANNELS, 5, 7)
    assert_same(run(fast, x), model(x), BOUND)
    assert sequence_of(fast).weights.floats() < 100_000


def test_an_input_of_another_size_is_torchs_error():
    model = Head(HEADS["two dense layers"]()).eval()
    fast = pco.accelerate(model, frozen=True)
    run(fast, image(2, CHANNELS, 5, 7))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
            fast(image(2, CHANNELS, 5, 8))


class Mixed(nn.Module):
    """A dense layer whose weights come from its input, and a flattened map that is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.dense = nn.Conv2d(16, 16, 3), nn.Linear(16 * 9, 16)

    def forward(self, x):
        flat = torch.flatten(torch.relu(self.conv(x)), 1)
        gate = torch.sigmoid(self.dense(flat))
        return nn.functional.linear(gate, gate.t() @ gate) + flat[:, :1]


def test_what_a_sequence_cannot_take():
    model = Mixed().eval()
    fast = pco.accelerate(model, frozen=True)
    for seed in range(3):
        torch.manual_seed(seed)
        x = torch.randn(2, 16, 5, 5)
        assert_same(run(fast, x), model(x), BOUND)


def test_what_torch_gives_in_another_order_is_brought_into_it():
    x = image(2, 16, 5, 7)
    y = frozen.in_order(x)
    assert y.is_contiguous(memory_format=torch.channels_last) and torch.equal(y, x)
    assert frozen.in_order(y) is y
    assert frozen.in_order(torch.randn(3, 4).t()).is_contiguous()


def test_made_in_inference_mode():
    """Its tensors have no versions: there is nothing to compare."""
    with torch.inference_mode():
        model = nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU()).eval()
        fast = pco.accelerate(model, frozen=True)
        x = image(2, 16, 8, 8)
        assert_same(run(fast, x), model(x), BOUND)
