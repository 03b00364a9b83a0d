"""Weight standardisation, blur pooling, squeeze and excitation."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

import pyconvopt as pco

from .helpers import assert_same

FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_weight_standardisation(memory_format):
    layer = pco.nn.WeightStandardizedConv2d(16, 12, 3, padding=1, eps=1e-3)
    layer = layer.to(memory_format=memory_format)
    x = torch.randn(2, 16, 6, 7).contiguous(memory_format=memory_format)
    w = layer.weight.detach().clone().requires_grad_()
    rows = w.flatten(1)
    mean, variance = rows.mean(1, keepdim=True), rows.var(1, correction=0, keepdim=True)
    standard = ((rows - mean) / (variance + 1e-3).sqrt()).view_as(w)
    wanted = F.conv2d(x, standard, layer.bias, padding=1)
    y = layer(x)
    assert_same(y, wanted)
    assert y.is_contiguous(memory_format=memory_format)
    g = torch.randn(y.shape)
    y.backward(g)
    wanted.backward(g)
    assert_same(layer.weight.grad, w.grad)
    other = torch.nn.Conv2d(16, 12, 3, padding=1)
    other.load_state_dict(layer.state_dict())
    assert isinstance(layer, torch.nn.Conv2d)
    assert repr(pickle.loads(pickle.dumps(layer))) == repr(layer)


class TestBlurPool:
    def test_by_hand(self):
        x = torch.zeros(1, 1, 5, 5)
        x[0, 0, 2, 2] = 16.0
        # (1, 2, 1) ⊗ (1, 2, 1) at every other pixel; reflected borders see nothing of the middle.
        y = pco.nn.BlurPool2d(1)(x)
        assert y[0, 0].tolist() == [[0, 0, 0], [0, 4, 0], [0, 0, 0]]
        x[0, 0, 2, 2], x[0, 0, 1, 1] = 0.0, 16.0
        assert pco.nn.BlurPool2d(1)(x)[0, 0].tolist() == [[4, 2, 0], [2, 1, 0], [0, 0, 0]]

    @pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5])
    @pytest.mark.parametrize("stride", [1, 2, 3])
    def test_shapes_and_constant_images(self, kernel_size, stride):
        layer = pco.nn.BlurPool2d(3, kernel_size, stride)
        y = layer(torch.ones(2, 3, 8, 7))
        assert y.shape == (2, 3, -(-8 // stride), -(-7 // stride))
        torch.testing.assert_close(y, torch.ones_like(y))
        assert not layer.state_dict() and not list(layer.parameters())

    def test_moves_with_its_input(self):
        """A shift by the stride shifts the output by one, away from the borders."""
        x = torch.randn(1, 2, 16, 16)
        layer = pco.nn.BlurPool2d(2)
        torch.testing.assert_close(layer(x.roll(2, 3))[..., 2:-2], layer(x).roll(1, 3)[..., 2:-2])

    def test_refusal(self):
        with pytest.raises(ValueError, match="must be >= 1, got 0 and 2"):
            pco.nn.BlurPool2d(3, 0)


def test_squeeze_excite():
    layer = pco.nn.SqueezeExcite(8, 2)
    x = torch.randn(3, 8, 4, 5)
    pooled = x.mean((2, 3))
    hidden = F.relu(pooled @ layer.fc1.weight.flatten(1).t() + layer.fc1.bias)
    gate = torch.sigmoid(hidden @ layer.fc2.weight.flatten(1).t() + layer.fc2.bias)
    torch.testing.assert_close(layer(x), x * gate[:, :, None, None])
    assert pco.nn.SqueezeExcite(32).fc1.weight.shape == (2, 32, 1, 1)
    assert pco.nn.SqueezeExcite(4).fc1.weight.shape == (1, 4, 1, 1)
    assert list(layer.state_dict()) == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    copy.deepcopy(layer)
