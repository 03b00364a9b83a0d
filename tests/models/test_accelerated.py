"""Every architecture accelerated beside itself in torch's own modules: outputs and gradients.

In training a gradient is compared with room: in maps of a few pixels a ReLU that opens within
rounding of zero turns whole gradients on or off. Torch's single precision itself is up to 3 %, of
the norm of all gradients, from its double precision there, and for Inception up to 0.5 % in evaluation.
"""

from __future__ import annotations

import copy

import pytest
import torch

import pyconvopt as pco
from pyconvopt import layers, models
from pyconvopt.accelerate.classes import LAYERS, PLANS
from tests.accelerate.loss_curves import architecture

FORWARD = 1e-4
GRADIENTS = {True: 0.1, False: 1e-2}
ROOM = {"inception_v3": 2}


def step(model, x):
    """The output, its strides, and all gradients in one vector."""
    model.zero_grad()
    y = model(x)
    y.backward(torch.sin(torch.arange(y.numel()).to(y)).view(y.shape))
    return y.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("name", models.ARCHITECTURES)
def test_accelerated_is_plain(name):
    torch.manual_seed(0)
    plain, shape = architecture(name)
    assert not {type(m) for m in plain.modules()} & set(LAYERS.values())
    fast = pco.accelerate(copy.deepcopy(plain))
    x = torch.randn(4, *shape)
    for training in (True, False):  # the statistics of the first are those of the second
        (y, gradient), (wanted, other) = (step(m.train(training), x) for m in (fast, plain))
        assert y.stride() == wanted.stride()
        assert relative(y, wanted) <= FORWARD
        room = 1 if training else ROOM.get(name, 1)
        assert relative(gradient, other) <= room * GRADIENTS[training]
    for buffer, other in zip(fast.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        assert relative(fast(x), plain(x)) <= FORWARD
    plans = [vars(m).get(PLANS) for m in fast.modules()]
    assert any(each is not None and each.current is not None for each in plans)


def test_the_layer_is_accelerated():
    torch.manual_seed(0)
    layer = layers.Architecture("resnet_cifar", {"depth": 8}, input_shape=(8, 8, 3))
    layer.build((None, 8, 8, 3))
    torch.manual_seed(0)
    plain = models.resnet_cifar(depth=8, in_channels=3)
    assert list(layer.network.state_dict()) == list(plain.state_dict())
    x = torch.randn(4, 3, 8, 8)
    (y, gradient), (wanted, other) = (step(m, x) for m in (layer.network, pco.restore(plain)))
    assert relative(y, wanted) <= FORWARD and relative(gradient, other) <= GRADIENTS[True]
    assert vars(layer.network)[PLANS].current is not None
