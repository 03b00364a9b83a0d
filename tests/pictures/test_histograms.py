"""Histograms hold every value once; gradients are the loss's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("matplotlib")

from pyconvopt import layers, models, pictures
from pyconvopt.pictures.histograms import gradients
from tests.pictures.networks import small, torch_small


def counts(axes) -> int:
    return int(axes.patches[0].get_data().values.sum())


def names(figure) -> list[str]:
    return [axes.get_title().split("\n")[0] for axes in figure.axes]


def test_weights_without_biases_and_batch_norm():
    model = torch_small()
    figure = pictures.histograms(model)
    assert names(figure) == ["0.weight", "4.weight"]
    assert [counts(axes) for axes in figure.axes] == [5 * 3 * 9, 5 * 36 * 3]
    edges, weight = figure.axes[0].patches[0].get_data().edges, model[0].weight.detach()
    assert edges[0] == pytest.approx(float(weight.min()))
    assert edges[-1] == pytest.approx(float(weight.max()))


def test_a_pattern_and_no_more_than_wanted():
    figure = pictures.histograms(torch_small(), pattern="*bias")
    assert names(figure) == ["0.bias", "1.bias", "4.bias"]
    figure = pictures.histograms(torch_small(), pattern="*", most=2)
    assert names(figure) == ["0.weight", "4.bias"] and figure.get_suptitle() == "2 of 6 parameters"


def test_gradients_beside_the_weights():
    model = small()
    x, y = torch.rand(16, 8, 8, 1), torch.arange(16) % 3
    figure = pictures.histograms(model, x, y)
    assert names(figure)[:2] == ["conv2d.weight", "gradient of conv2d.weight"]
    assert len(figure.axes) == 6 and counts(figure.axes[1]) == 4 * 9
    probabilities = model(x)
    probabilities[torch.arange(16), y].log().mean().neg().backward()
    found = gradients(model, x, y)
    for name, parameter in model.named_parameters():
        assert torch.allclose(found[name], parameter.grad, atol=1e-6)


def test_the_model_is_left_as_it_was():
    model = torch_small().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pictures.histograms(model, torch.rand(4, 3, 8, 8), [0, 1, 2, 0])
    assert all(each.grad is None for each in model.parameters()) and not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_is_no_number_and_what_has_no_gradient():
    model = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
        model[1].weight[:] = float("inf")
    first, second = pictures.histograms(model).axes
    assert counts(first) == 7 and first.get_title().endswith("1 not finite")
    assert second.get_title().endswith("no numbers: 4 not finite")
    frozen = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2))
    frozen[0].requires_grad_(False)
    figure = pictures.histograms(frozen, torch.rand(3, 4), [0, 1, 1])
    assert figure.axes[1].get_title() == "gradient of 0.weight\nnone: not part of the loss"
    assert not figure.axes[1].patches


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((torch.rand(2, 8, 8, 1),), {}, "need both x and y"),
        ((), {"pattern": "dens.*"}, "no parameter is named like 'dens.*'"),
        ((), {"most": 0}, "most must be a whole number >= 1"),
        ((torch.rand(2, 8, 8, 1), [0, 7]), {}, "label 7"),
    ],
)
def test_refusals(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        pictures.histograms(small(), *arguments, **options)


def test_an_unbuilt_model():
    with pytest.raises(ValueError, match="no weights yet"):
        pictures.histograms(models.Sequential([layers.Dense(2)]))


def test_constant_weights():
    model = nn.Linear(3, 3)
    nn.init.zeros_(model.weight)
    axes = pictures.histograms(model).axes[0]
    assert counts(axes) == 9 and np.isfinite(axes.get_ylim()).all()
