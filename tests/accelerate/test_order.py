"""Results and gradients lie in memory as torch's would."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pyconvopt as pco

X = torch.randn(2, 3, 12, 12)


class Of(nn.Module):
    """Two convolutions and a norm over channels, put together by a function."""

    def __init__(self, body):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, padding=1)
        self.norm, self.body = nn.LayerNorm(16), body

    def forward(self, x):
        return self.body(self, x)


def last(m, y):
    """A map normalised over its channels: in channels_last whatever it was."""
    return m.norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("through", ["accelerate", "compile"])
@pytest.mark.parametrize(
    "body",
    [
        lambda m, x: F.relu(m.a(x.to(memory_format=torch.channels_last))),
        lambda m, x: F.gelu(last(m, m.a(x))),
        lambda m, x: m.b(last(m, m.a(x))),
        lambda m, x: last(m, m.a(x)) + m.b(F.relu(last(m, m.a(x)))),
        lambda m, x: m.b(m.a(x).contiguous()).relu(),
        lambda m, x: m.b(m.a(x).flatten(2).unflatten(2, (10, 10))),
    ],
    ids=["to", "norm", "norm, convolution", "sum", "contiguous", "unflatten"],
)
def test_strides_of_results(body, through):
    model = Of(body)
    fast = pco.accelerate(model) if through == "accelerate" else compiled(model)
    for x in (X, X.to(memory_format=torch.channels_last)):
        y, wanted = fast(x), model(x)
        torch.testing.assert_close(y, wanted)
        assert y.stride() == wanted.stride()


def compiled(model):
    torch._dynamo.reset()
    return torch.compile(model, backend="pyconvopt")


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_strides_of_input_gradients(order):
    layers = nn.Conv2d(3, 16, 3), nn.LeakyReLU(0.2), nn.Conv2d(16, 8, 3, stride=2), nn.Tanh()
    fast = pco.accelerate(nn.Sequential(*layers))
    x = X.contiguous(memory_format=order).requires_grad_()
    (g,) = torch.autograd.grad(fast(x).sum(), x, create_graph=True)
    assert g.is_contiguous(memory_format=order)
    penalty = (g.flatten(1).norm(2, 1) - 1).square().mean()
    penalty.backward()
    weight = layers[0].weight
    ours, weight.grad = weight.grad, None
    (g,) = torch.autograd.grad(nn.Sequential(*layers)(x).sum(), x, create_graph=True)
    (g.flatten(1).norm(2, 1) - 1).square().mean().backward()
    torch.testing.assert_close(ours, weight.grad, rtol=1e-4, atol=1e-5)


def test_gradients_that_hooks_see():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
    fast, seen = pco.accelerate(model), []
    fast[0].register_full_backward_hook(lambda module, inputs, outputs: seen.append(outputs[0]))
    fast(X).sum().backward()
    assert seen[0].is_contiguous()
