"""Filters and feature maps: the very numbers of the weights and of the layers' outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("matplotlib")

from pyconvopt import accelerate, layers, models, pictures
from pyconvopt.pictures.drawing import in_rows, mosaic
from tests.pictures.networks import small, torch_small


def shown(axes) -> np.ndarray:
    return np.ma.filled(axes.images[0].get_array().astype(float), np.nan)


class TestFilters:
    def test_one_channel(self):
        model = small()
        figure = pictures.filters(model)
        axes = figure.axes[0]
        weight = model.layers[0].weight.detach().numpy()
        assert axes.get_title() == "conv2d: 4 filters of 3×3"
        picture = shown(axes)
        assert picture.shape == (3, 4 * 3 + 3)
        for index in range(4):
            assert np.allclose(picture[:, 4 * index : 4 * index + 3], weight[index, 0])
        assert np.isnan(picture[:, 3]).all()
        low, high = axes.images[0].get_clim()
        assert low == -high and high == pytest.approx(np.abs(weight).max())

    def test_colour(self):
        model = torch_small()
        axes = pictures.filters(model, model[0], most=2).axes[0]
        weight = model[0].weight.detach().numpy()
        assert axes.get_title() == "0: 2 of 5 filters of 3×3"
        wanted = 0.5 + weight[1].transpose(1, 2, 0) / (2 * np.abs(weight).max())
        picture = shown(axes)
        assert np.allclose(picture[:, 4:7, :3], wanted)
        assert (picture[..., 3] == 0).sum() == 3  # the gap shows the paper

    def test_deeper_layers_by_filter_and_channel(self):
        model = small()
        axes = pictures.filters(model, "conv2d_1").axes[0]
        assert axes.get_title() == "conv2d_1: 16 of 20 filters of 1×2\nover 4 channels"
        weight = model.layers[2].weight.detach().numpy()
        picture = shown(axes)
        assert picture.shape == (16 * 2 - 1, 4 * 3 - 1)
        assert np.allclose(picture[2 * 5, 3 * 2 : 3 * 2 + 2], weight[5, 2, 0])
        assert (axes.get_ylabel(), axes.get_xlabel()) == ("filter", "input channel")

    def test_a_transposed_convolution_has_its_filters_on_axis_1(self):
        axes = pictures.filters(nn.Sequential(nn.ConvTranspose2d(1, 6, 2))).axes[0]
        assert axes.get_title() == "0: 6 filters of 2×2"

    def test_1x1_filters_are_a_matrix(self):
        model = nn.Sequential(nn.Conv2d(5, 7, 1))
        assert np.allclose(
            shown(pictures.filters(model).axes[0]), model[0].weight[:, :, 0, 0].detach()
        )

    def test_accelerated_models(self):
        model = accelerate(nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU()))
        assert pictures.filters(model).axes[0].get_title() == "0: 3 filters of 3×3"

    @pytest.mark.parametrize(
        ("model", "arguments", "message"),
        [
            (nn.Linear(2, 2), (), "the model has no convolution"),
            (models.Sequential([layers.Conv2D(2, 3)]), (), "not built yet"),
            (small(), ("conv2d_2",), "unknown layer 'conv2d_2': did you mean 'conv2d'"),
            (
                small(),
                ("flatten",),
                r"flatten \(Flatten\) is no convolution; this model's are conv2d,",
            ),
            (small(), (nn.Conv2d(1, 1, 1),), "must be one of this model"),
        ],
    )
    def test_refusals(self, model, arguments, message):
        with pytest.raises(ValueError, match=message):
            pictures.filters(model, *arguments)


class TestFeatureMaps:
    def test_of_one_layer_behind_its_activation(self):
        model, image = small(), np.random.default_rng(0).random((8, 8, 1), np.float32)
        input_axes, maps_axes = pictures.feature_maps(model, image, "conv2d").axes[:2]
        assert np.allclose(shown(input_axes), image[..., 0])
        with torch.no_grad():
            maps = model.layers[0](torch.from_numpy(image).permute(2, 0, 1)[None])[0].numpy()
        assert maps.min() == 0  # of the ReLU
        assert np.array_equal(shown(maps_axes), mosaic(in_rows(maps, 8)), equal_nan=True)
        assert maps_axes.get_title() == "conv2d: 4 maps of 6×6"

    def test_all_convolutions_without_a_layer(self):
        figure = pictures.feature_maps(small(), np.zeros((1, 8, 8, 1), np.float32))
        titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
        assert titles == ["input: 8×8", "conv2d: 4 maps of 6×6", "conv2d_1: 8 of 20 maps of 3×2"]

    def test_deep_models_are_sampled_from_first_to_last(self):
        model = nn.Sequential(*(nn.Conv2d(1, 1, 1) for _ in range(25)))
        figure = pictures.feature_maps(model, torch.zeros(1, 3, 3))
        titles = [axes.get_title() for axes in figure.axes if axes.get_title()][1:]
        assert len(titles) == 10 and titles[0][:2] == "0:" and titles[-1][:3] == "24:"

    def test_the_model_is_left_as_it_was(self):
        model = torch_small()
        model[1].eval()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        pictures.feature_maps(model, torch.rand(3, 8, 8))
        assert model.training and not model[1].training
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert not any(each._forward_hooks for each in model.modules())

    def test_in_evaluation_mode(self):
        model = torch_small()
        nn.init.constant_(model[1].running_mean, 5.0)
        image = torch.rand(3, 8, 8)
        axes = pictures.feature_maps(model, image, model[1]).axes[1]
        with torch.no_grad():
            wanted = model.eval()[:2](image[None])[0, 0].numpy()
        assert np.allclose(shown(axes)[:6, :6], wanted, atol=1e-6)

    @pytest.mark.parametrize(
        ("model", "x", "layer", "message"),
        [
            (
                small(),
                np.zeros((2, 8, 8, 1)),
                None,
                r"one image, \(H, W, C\).* shape \(2, 8, 8, 1\)",
            ),
            (small(), np.zeros((8, 8, 1)), "dense", r"dense gives no maps but .*\(N, 3\)"),
            (small(), np.zeros((8, 8, 1)), "dens", "did you mean 'dense'"),
            (small(), np.zeros((9, 9, 1)), None, r"takes inputs of shape \(N, 8, 8, 1\)"),
            (nn.Sequential(nn.Flatten()), np.zeros((1, 4, 4)), None, "no convolution"),
            (nn.Sequential(nn.Conv2d(4, 1, 1)), np.zeros((4, 4, 4)), None, "1 or 3 channels"),
        ],
    )
    def test_refusals(self, model, x, layer, message):
        with pytest.raises(ValueError, match=message):
            pictures.feature_maps(model, x.astype(np.float32), layer)
