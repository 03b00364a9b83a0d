"""Layers: shapes, formulas on small numbers, Keras' padding and weight layouts, refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as torch_functional

from pyconvopt import activations, initializers, layers, regularizers
from pyconvopt.layers import windows


def images(*shape: int) -> torch.Tensor:
    """N, C, H, W in channels_last memory, as layers meet it inside a model."""
    n, h, w, c = shape
    return torch.randn(n, h, w, c).permute(0, 3, 1, 2)


class TestConv2D:
    def test_numbers_by_hand(self):
        layer = layers.Conv2D(1, 2, activation="relu", input_shape=(2, 2, 1))
        layer.build((None, 2, 2, 1))
        kernel = np.array([[1.0, 2.0], [3.0, 4.0]]).reshape(2, 2, 1, 1)
        layer.set_weights([kernel, np.array([0.5])])
        x = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]], [[[-1.0, 0.0], [0.0, -1.0]]]])
        assert layer(x).flatten().tolist() == [1 + 4 + 0.5, 0.0]

    @pytest.mark.parametrize("padding", ["valid", "same"])
    @pytest.mark.parametrize(
        ("size", "kernel", "strides", "dilation"),
        [
            ((7, 8), (3, 3), (1, 1), (1, 1)),
            ((7, 8), (3, 2), (2, 2), (1, 1)),
            ((9, 6), (2, 3), (3, 1), (1, 1)),
            ((9, 9), (3, 3), (1, 1), (2, 2)),
            ((5, 5), (5, 5), (4, 3), (1, 1)),
        ],
    )
    def test_shape_inference_agrees_with_the_result(self, size, kernel, strides, dilation, padding):
        layer = layers.Conv2D(
            4, kernel, strides=strides, padding=padding, dilation_rate=dilation, groups=2
        )
        y = layer(images(2, *size, 6))
        assert layer.output_shape == (None, y.shape[2], y.shape[3], y.shape[1])
        if padding == "same":
            assert y.shape[2:] == (-(-size[0] // strides[0]), -(-size[1] // strides[1]))

    def test_same_padding_puts_the_odd_row_at_the_end(self):
        layer = layers.Conv2D(1, 2, padding="same", use_bias=False, kernel_initializer="ones")
        y = layer(torch.ones(1, 1, 2, 2))
        assert y[0, 0].tolist() == [[4.0, 2.0], [2.0, 1.0]]

    def test_grouped_dilated_convolution_is_torchs(self):
        layer = layers.Conv2D(6, 3, dilation_rate=2, groups=3, strides=2)
        x = images(2, 11, 10, 3)
        y = layer(x)
        expected = torch_functional.conv2d(x, layer.weight, layer.bias, 2, 0, 2, 3)
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)

    def test_weights_lie_in_channels_last_memory(self):
        for channels in (1, 5):
            layer = layers.Conv2D(4, 3)
            layer.build((None, 8, 8, channels))
            assert layer.weight.is_contiguous(memory_format=torch.channels_last)
            assert layer.weight.stride() == (9 * channels, 1, 3 * channels, channels)

    def test_weights_in_keras_layout(self):
        layer = layers.Conv2D(4, (3, 2), groups=2)
        layer.build((None, 8, 8, 6))
        kernel, bias = layer.get_weights()
        assert kernel.shape == (3, 2, 3, 4) and bias.shape == (4,)
        assert kernel[2, 1, 0, 3] == layer.weight[3, 0, 2, 1].item()
        layer.set_weights([kernel + 1, bias - 1])
        np.testing.assert_array_equal(layer.get_weights()[0], kernel + 1)
        np.testing.assert_array_equal(layer.get_weights()[1], bias - 1)

    def test_refusals(self):
        with pytest.raises(ValueError, match="did you mean 'same'"):
            layers.Conv2D(4, 3, padding="sane")
        with pytest.raises(ValueError, match=r"kernel_size must be .* got 0"):
            layers.Conv2D(4, 0)
        with pytest.raises(ValueError, match="groups must divide the 4 filters, got 3"):
            layers.Conv2D(4, 3, groups=3)
        with pytest.raises(ValueError, match="2×2 is too small for a kernel of 3×3"):
            layers.Conv2D(4, 3).build((None, 2, 2, 1))
        with pytest.raises(ValueError, match=r"takes inputs of 4 axes .* got 2"):
            layers.Conv2D(4, 3).build((None, 10))
        with pytest.raises(ValueError, match="5 channels cannot be split into 2 groups"):
            layers.Conv2D(4, 3, groups=2).build((None, 8, 8, 5))
        with pytest.raises(ValueError, match="channels_last"):
            layers.Conv2D(4, 3, data_format="channels_first")
        with pytest.raises(ValueError, match="unknown activation 'rellu': did you mean 'relu'"):
            layers.Conv2D(4, 3, activation="rellu")
        with pytest.raises(ValueError, match="unknown initializer 'he_norm': did you mean"):
            layers.Conv2D(4, 3, kernel_initializer="he_norm")

    def test_set_weights_refuses_other_shapes_and_changes_nothing(self):
        layer = layers.Conv2D(2, 3)
        with pytest.raises(ValueError, match="build it first"):
            layer.set_weights([])
        layer.build((None, 4, 4, 1))
        before = layer.get_weights()
        with pytest.raises(ValueError, match=r"bias has shape \(2,\), got \(3,\)"):
            layer.set_weights([before[0] + 1, np.zeros(3)])
        np.testing.assert_array_equal(layer.get_weights()[0], before[0])


class TestConv2DTranspose:
    def test_numbers_by_hand(self):
        layer = layers.Conv2DTranspose(1, 2, strides=2, activation="relu", use_bias=False)
        layer.build((None, 1, 2, 1))
        layer.set_weights([np.array([[1.0, 2.0], [3.0, -4.0]]).reshape(2, 2, 1, 1)])
        y = layer(torch.tensor([[[[1.0, 10.0]]]]))
        assert y.tolist() == [[[[1.0, 2.0, 10.0, 20.0], [3.0, 0.0, 30.0, 0.0]]]]

    def test_weights_lie_in_channels_last_memory(self):
        layer = layers.Conv2DTranspose(5, 3)
        layer.build((None, 8, 8, 4))
        assert layer.weight.shape == (4, 5, 3, 3)
        assert layer.weight.is_contiguous(memory_format=torch.channels_last)
        assert layer.get_weights()[0].shape == (3, 3, 5, 4)
        assert layer.flops() == 2 * 9 * 4 * 5 * 64 + 10 * 10 * 5

    def test_refusals(self):
        with pytest.raises(ValueError, match=r"smaller than the strides \(2, 2\), got \(2, 2\)"):
            layers.Conv2DTranspose(4, 3, strides=2, output_padding=2)
        with pytest.raises(ValueError, match="cannot both be above 1"):
            layers.Conv2DTranspose(4, 3, strides=2, dilation_rate=2)


class TestConv1D:
    def test_causal_sees_no_later_step(self):
        layer = layers.Conv1D(1, 2, padding="causal", use_bias=False)
        layer.build((None, 3, 1))
        layer.set_weights([np.array([10.0, 1.0]).reshape(2, 1, 1)])
        assert layer(torch.tensor([[[1.0], [2.0], [3.0]]])).flatten().tolist() == [1.0, 12.0, 23.0]

    def test_configuration_and_refusals(self):
        config = layers.Conv1D(4, (3,), strides=2, padding="causal").get_config()
        assert config["kernel_size"] == [3] and config["padding"] == "causal"
        assert layers.Conv1D(**config).get_config() == config
        with pytest.raises(ValueError, match="kernel_size must be one whole number >= 1, got"):
            layers.Conv1D(4, (3, 3))
        with pytest.raises(ValueError, match="takes inputs of 3 axes"):
            layers.Conv1D(4, 3).build((None, 8, 8, 4))


class TestPooling:
    def test_maximum_of_windows(self):
        x = torch.arange(25.0).reshape(1, 1, 5, 5)
        assert layers.MaxPooling2D(2)(x)[0, 0].tolist() == [[6, 8], [16, 18]]
        same = layers.MaxPooling2D(2, padding="same")(-x)
        assert same[0, 0].tolist() == [[0, -2, -4], [-10, -12, -14], [-20, -22, -24]]

    def test_average_leaves_padding_out(self):
        x = torch.arange(9.0).reshape(1, 1, 3, 3)
        assert layers.AveragePooling2D(2, padding="same")(x)[0, 0].tolist() == [
            [2.0, 3.5],
            [6.5, 8.0],
        ]
        ones = torch.ones(1, 1, 7, 6)
        for window, stride in ((3, 1), (3, 2), (2, 1), (5, 3)):
            y = layers.AveragePooling2D(window, stride, padding="same")(ones)
            torch.testing.assert_close(y, torch.ones_like(y))

    @pytest.mark.parametrize("kind", [layers.MaxPooling2D, layers.AveragePooling2D])
    @pytest.mark.parametrize("padding", ["valid", "same"])
    @pytest.mark.parametrize(("window", "strides"), [(2, None), (3, 2), ((2, 3), (1, 2)), (5, 1)])
    def test_shape_inference_agrees_with_the_result(self, kind, padding, window, strides):
        layer = kind(window, strides, padding=padding)
        y = layer(images(2, 7, 8, 3))
        assert layer.output_shape == (None, y.shape[2], y.shape[3], 3)

    def test_global_average(self):
        x = images(2, 3, 4, 5)
        torch.testing.assert_close(layers.GlobalAveragePooling2D()(x), x.mean((2, 3)))
        kept = layers.GlobalAveragePooling2D(keepdims=True)
        assert kept(x).shape == (2, 5, 1, 1) and kept.output_shape == (None, 1, 1, 5)

    def test_too_small(self):
        with pytest.raises(ValueError, match="1×1 is too small for a window of 2×2"):
            layers.MaxPooling2D(2).build((None, 1, 1, 4))


class TestFlattenAndDense:
    def test_flatten_keeps_height_width_channel_order_without_a_copy(self):
        array = torch.arange(24.0).reshape(1, 2, 3, 4)
        x = array.permute(0, 3, 1, 2)
        y = layers.Flatten()(x)
        assert y[0].tolist() == list(range(24))
        assert y.data_ptr() == array.data_ptr()

    def test_dense_by_hand(self):
        layer = layers.Dense(2)
        layer.build((None, 3))
        layer.set_weights([np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([0.5, -0.5])])
        assert layer(torch.tensor([[1.0, 0.0, -1.0]])).tolist() == [[-3.5, -4.5]]

    def test_dense_on_images_works_on_channels(self):
        layer = layers.Dense(4, activation="softmax")
        y = layer(images(2, 5, 6, 3))
        assert y.shape == (2, 4, 5, 6) and layer.output_shape == (None, 5, 6, 4)
        torch.testing.assert_close(y.sum(1), torch.ones(2, 5, 6))

    @pytest.mark.parametrize(
        ("make", "name"),
        [
            (lambda: layers.Dense(3, use_bias="no"), "use_bias"),
            (lambda: layers.Conv2D(3, 3, use_bias="no"), "use_bias"),
            (lambda: layers.Conv2DTranspose(3, 3, use_bias="no"), "use_bias"),
            (
                lambda: layers.Conv2D(3, 3, weight_standardization="no"),
                "weight_standardization",
            ),
            (lambda: setattr(layers.Dense(3), "trainable", "no"), "trainable"),
        ],
    )
    def test_truth_values(self, make, name):
        with pytest.raises(ValueError, match=f"{name} must be true or false, got 'no'"):
            make()

    def test_refusals(self):
        with pytest.raises(ValueError, match="units must be"):
            layers.Dense(0)
        with pytest.raises(TypeError, match=r"got the class HeNormal .* write HeNormal\(\)"):
            layers.Dense(1, kernel_initializer=initializers.HeNormal)


class TestBatchNormalization:
    def test_training_and_moving_statistics_by_hand(self):
        layer = layers.BatchNormalization(momentum=0.9, epsilon=4.0)
        layer.build((None, 1))
        layer.set_weights([np.array([2.0]), np.array([1.0]), np.array([0.0]), np.array([1.0])])
        x = torch.tensor([[1.0], [3.0], [5.0], [7.0]])  # mean 4, variance (9+1+1+9)/4 = 5
        y = layer(x)
        expected = [2 * (value - 4) / 3 + 1 for value in (1, 3, 5, 7)]  # √(5 + 4) = 3
        np.testing.assert_allclose(y.detach().numpy()[:, 0], expected, rtol=1e-6)
        assert layer.running_mean.item() == pytest.approx(0.1 * 4)
        assert layer.running_var.item() == pytest.approx(0.9 * 1 + 0.1 * 5)
        layer.eval()
        y = layer(torch.tensor([[0.4]]))
        assert y.item() == pytest.approx(1.0)

    def test_moving_variance_may_change_before_backward(self):
        layer = layers.BatchNormalization()
        x = images(3, 4, 4, 2).requires_grad_()
        (layer(x) + layer(x)).square().sum().backward()
        assert torch.isfinite(x.grad).all()

    def test_an_empty_batch_changes_nothing(self):
        layer = layers.BatchNormalization()
        assert layer(torch.zeros(0, 3)).shape == (0, 3)
        assert layer.running_var.tolist() == [1, 1, 1]
        assert layer.running_mean.tolist() == [0, 0, 0]

    def test_batch_of_one(self):
        layer = layers.BatchNormalization()
        with pytest.raises(ValueError, match="one value a channel in training"):
            layer(torch.zeros(1, 3))
        layer.eval()
        assert layer(torch.zeros(1, 3)).shape == (1, 3)

    def test_frozen_layer_keeps_its_statistics(self):
        layer = layers.BatchNormalization()
        layer.build((None, 4, 4, 2))
        layer.trainable = False
        layer(images(3, 4, 4, 2) + 5)
        assert layer.running_mean.tolist() == [0, 0]
        assert not any(each.requires_grad for each in layer.parameters())

    def test_without_scale_and_center(self):
        layer = layers.BatchNormalization(scale=False, center=False)
        y = layer(images(8, 4, 4, 3) * 3 + 2)
        assert [name for name, _ in layer.keras_weights()] == ["moving_mean", "moving_variance"]
        torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)

    def test_only_the_last_axis(self):
        with pytest.raises(ValueError, match="last axis"):
            layers.BatchNormalization(axis=1).build((None, 4, 4, 2))


class TestDropout:
    def test_zeroes_the_rate_and_keeps_the_mean(self):
        layer = layers.Dropout(0.25)
        y = layer(torch.ones(100, 1000))
        zeros = (y == 0).float().mean().item()
        # 100,000 draws: five standard deviations are 0.007.
        assert abs(zeros - 0.25) < 0.007
        assert y.unique().tolist() == pytest.approx([0.0, 1 / 0.75])

    def test_nothing_in_evaluation(self):
        x = torch.randn(3, 4)
        assert layers.Dropout(0.9).eval()(x) is x

    def test_spatial_drops_whole_channels(self):
        y = layers.SpatialDropout2D(0.5)(torch.ones(16, 8, 3, 3))
        whole = y.flatten(2)
        assert torch.equal(whole.amin(2), whole.amax(2))
        assert 0 < (whole[..., 0] == 0).sum() < 128

    def test_a_rate_that_is_changed_counts(self):
        x = images(40, 4, 4, 50)
        for layer in (
            layers.SpatialDropout2D(0.0),
            layers.DropBlock2D(0.0, 1),
            layers.DropPath(0.0),
        ):
            assert torch.equal(layer(x), x)
            layer.rate = 0.9
            assert (layer(x) == 0).float().mean() > 0.6

    def test_rate(self):
        with pytest.raises(ValueError, match=r"rate must lie in 0 ... 1"):
            layers.Dropout(1.0)
        with pytest.raises(ValueError, match="stddev must be 0 or more, got -1"):
            layers.GaussianNoise(-1)

    def test_gaussian_noise_and_dropout_statistics(self):
        x = torch.full((200, 500), 2.0)
        noisy = layers.GaussianNoise(0.5)(x)
        assert noisy.mean().item() == pytest.approx(2.0, abs=0.01)
        assert noisy.std().item() == pytest.approx(0.5, abs=0.01)
        multiplied = layers.GaussianDropout(0.2)(x)
        assert multiplied.mean().item() == pytest.approx(2.0, abs=0.02)
        assert multiplied.std().item() == pytest.approx(2.0 * 0.5, abs=0.02)

    def test_alpha_dropout_keeps_mean_and_variance(self):
        y = layers.AlphaDropout(0.3)(torch.randn(500, 500))
        assert y.mean().item() == pytest.approx(0.0, abs=0.02)
        assert y.std().item() == pytest.approx(1.0, abs=0.02)


class TestReshaping:
    def test_every_layer_infers_the_shape_it_gives(self):
        for layer in (
            layers.ZeroPadding2D(),
            layers.ZeroPadding2D((2, 0)),
            layers.Cropping2D(((1, 2), (0, 1))),
            layers.UpSampling2D((3, 2), interpolation="bilinear"),
            layers.Reshape((3, -1, 2)),
            layers.Reshape((96,)),
            layers.Rescaling(1 / 255),
            layers.GlobalMaxPooling2D(keepdims=True),
            layers.GroupNormalization(2),
            layers.LayerNormalization(),
            layers.PReLU(),
            layers.LeakyReLU(),
        ):
            y = layer(images(2, 6, 8, 2))
            got = tuple(y.permute(0, 2, 3, 1).shape if y.dim() == 4 else y.shape)
            assert layer.output_shape == (None, *got[1:]), layer

    def test_reshape_of_an_empty_batch(self):
        assert layers.Reshape((2, -1))(torch.zeros(0, 6)).shape == (0, 2, 3)

    def test_reshape_keeps_the_array_order(self):
        x = torch.arange(12.0).reshape(1, 2, 3, 2)
        assert layers.Reshape((12,))(x.permute(0, 3, 1, 2))[0].tolist() == list(range(12))
        assert layers.Reshape((3, 4, 1))(x.permute(0, 3, 1, 2))[0, 0, 1].tolist() == [4, 5, 6, 7]

    def test_normalised_by_itself(self):
        x = images(3, 4, 5, 6) * 3 + 2
        by_pixel = layers.LayerNormalization(epsilon=0)(x)
        torch.testing.assert_close(by_pixel.mean(1), torch.zeros(3, 4, 5), atol=1e-5, rtol=0)
        in_groups = layers.GroupNormalization(2, epsilon=0)(x).reshape(3, 2, 3 * 4 * 5)
        torch.testing.assert_close(in_groups.mean(2), torch.zeros(3, 2), atol=1e-5, rtol=0)
        variance = in_groups.var(2, correction=0)
        torch.testing.assert_close(variance, torch.ones(3, 2), atol=1e-4, rtol=0)
        rows = layers.GroupNormalization(2, epsilon=0)(x.permute(0, 2, 3, 1).reshape(3, 20, 6))
        torch.testing.assert_close(rows.mT.reshape(3, 2, 3 * 4 * 5), in_groups)

    def test_refusals(self):
        for make, shape, message in (
            (lambda: layers.Cropping2D(2), (None, 4, 4, 1), "leaves nothing of 4×4"),
            (lambda: layers.Reshape((5,)), (None, 4), r"cannot make \(5,\) of 4 values"),
            (lambda: layers.Reshape((3, -1)), (None, 4), "cannot make"),
            (lambda: layers.Reshape((-1, -1)), (None, 4), "at most one -1"),
            (lambda: layers.ZeroPadding2D((1, 2, 3)), (None, 4, 4, 1), "two pairs of numbers"),
            (lambda: layers.ZeroPadding2D(-1), (None, 4, 4, 1), "padding must be"),
            (lambda: layers.UpSampling2D(2, interpolation="nearst"), (None, 4, 4, 1), "'nearest'"),
            (lambda: layers.GroupNormalization(4), (None, 4, 4, 6), "6 channels cannot be split"),
            (lambda: layers.GroupNormalization(0), (None, 4, 4, 6), "groups must be a whole"),
            (lambda: layers.LayerNormalization(axis=1), (None, 4, 4, 6), "last axis"),
            (lambda: layers.PReLU(shared_axes=(4,)), (None, 4, 4, 6), "shared_axes must lie in"),
            (lambda: layers.PReLU(), (None, None, 4, 6), "needs to know the sizes"),
            (lambda: layers.LeakyReLU(-1), (None, 4), "negative_slope must be 0 or more"),
        ):
            with pytest.raises(ValueError, match=message):
                make().build(shape)


class TestActivations:
    def test_every_name_gives_a_tensor_of_the_same_shape(self):
        x = torch.randn(2, 3, 4, 4)
        for name in activations.TABLE:
            assert layers.Activation(name)(x).shape == x.shape, name

    def test_torch_modules_stand_for_names_and_learn(self):
        layer = layers.Dense(3, activation=torch.nn.PReLU(init=0.5))
        layer.build((None, 2))
        x = torch.randn(4, 2)
        linear = torch_functional.linear(x, layer.weight, layer.bias)
        torch.testing.assert_close(layer(x), torch_functional.leaky_relu(linear, 0.5))
        assert "activation.weight" in dict(layer.named_parameters())
        assert layers.Activation(torch.nn.ReLU())(torch.tensor([[-1.0, 1.0]])).tolist() == [[0, 1]]

    def test_torchs_spellings(self):
        for name, function in (
            ("hardtanh", torch_functional.hardtanh),
            ("logsigmoid", torch_functional.logsigmoid),
            ("hardswish", torch_functional.hardswish),
            ("LeakyReLU", activations.leaky_relu),
        ):
            assert activations.get(name) is function

    def test_softmax_of_images_runs_over_channels(self):
        y = layers.Softmax()(images(2, 3, 4, 5))
        torch.testing.assert_close(y.sum(1), torch.ones(2, 3, 4))
        across_height = layers.Softmax(axis=1)(images(2, 3, 4, 5))
        torch.testing.assert_close(across_height.sum(2), torch.ones(2, 5, 4))

    def test_relu_arguments(self):
        x = torch.tensor([[-2.0, 0.5, 1.5, 9.0]])
        y = layers.ReLU(max_value=6.0, negative_slope=0.1, threshold=1.0)(x)
        torch.testing.assert_close(y, torch.tensor([[-0.3, -0.05, 1.5, 6.0]]))


class TestInitializers:
    @pytest.mark.parametrize(
        ("name", "variance"),
        [
            ("glorot_uniform", 2 / (288 + 576)),
            ("glorot_normal", 2 / (288 + 576)),
            ("he_normal", 2 / 288),
            ("he_uniform", 2 / 288),
            ("lecun_normal", 1 / 288),
            ("lecun_uniform", 1 / 288),
            ("random_normal", 0.05**2),
            ("random_uniform", 0.1**2 / 12),
        ],
    )
    def test_variance(self, name, variance):
        weight = initializers.get(name)(torch.empty(64, 32, 3, 3))
        # 18,432 values: the relative deviation of the variance is about 1 %.
        assert weight.var().item() == pytest.approx(variance, rel=0.05)
        assert abs(weight.mean().item()) < 5 * (variance / weight.numel()) ** 0.5

    def test_seed_repeats(self):
        first = initializers.HeNormal(seed=3)(torch.empty(8, 8))
        assert torch.equal(first, initializers.HeNormal(seed=3)(torch.empty(8, 8)))
        assert not torch.equal(first, initializers.HeNormal(seed=4)(torch.empty(8, 8)))

    def test_every_method_comes_back_from_its_description(self):
        for methods in (initializers, regularizers):
            for name in methods.TABLE:
                method = methods.get(name)
                assert methods.get(methods.describe(method)) == method


class TestNumbers:
    """Numbers of NumPy's are numbers; what is no number, or not of its kind, is refused."""

    SIZES = (
        lambda n: layers.Dense(n),
        lambda n: layers.Conv2D(n, 3),
        lambda n: layers.Conv2D(4, n),
        lambda n: layers.Conv2D(6, (2, n), groups=n),
        lambda n: layers.Conv1D(4, n),
        lambda n: layers.MaxPooling2D(n),
        lambda n: layers.ZeroPadding2D(n),
        lambda n: layers.UpSampling2D(n),
        lambda n: layers.Reshape((n, -1)),
        lambda n: layers.Views(True, n),
        lambda n: layers.MeanOfViews(n),
        lambda n: layers.GroupNormalization(n),
        lambda n: layers.GhostBatchNormalization(n),
        lambda n: layers.DropBlock2D(0.1, n),
        lambda n: layers.PReLU(shared_axes=n),
        lambda n: layers.Softmax(n),
        lambda n: layers.Dense(3, input_shape=(n,)),
        lambda n: layers.Input((n,)),
    )
    RATES = (
        lambda r: layers.Dropout(r),
        lambda r: layers.GaussianNoise(r),
        lambda r: layers.Rescaling(r, r),
        lambda r: layers.ReLU(r, r, r),
        lambda r: layers.LeakyReLU(r),
        lambda r: layers.ELU(r),
        lambda r: layers.BatchNormalization(momentum=r, epsilon=r),
        lambda r: layers.ScheduledDropout(r),
        lambda r: layers.BatchRenormalization(d_max=r),
        lambda r: layers.Dense(3, kernel_regularizer=regularizers.L2(r)),
        lambda r: layers.Dense(3, bias_initializer=initializers.Constant(r)),
    )

    @pytest.mark.parametrize("make", SIZES)
    def test_sizes(self, make):
        layer, plain = make(np.int64(3)), make(3)
        assert json.dumps(layer.get_config()) == json.dumps(plain.get_config())
        assert repr(layer) == repr(plain)
        for wrong in ("3", 3.0, True):
            with pytest.raises(ValueError, match=r"whole number|must hold sizes|must be a number"):
                make(wrong)

    @pytest.mark.parametrize("make", RATES)
    def test_rates(self, make):
        layer, plain = make(np.float32(0.5)), make(0.5)
        assert json.dumps(layer.get_config()) == json.dumps(plain.get_config())

    @pytest.mark.parametrize("make", RATES[:-1])
    @pytest.mark.parametrize("wrong", ["0.5", float("nan")], ids=str)
    def test_rates_that_are_none(self, make, wrong):
        with pytest.raises(ValueError, match=r"must be|must lie in"):
            make(wrong)

    def test_an_input_shape_that_is_one_number(self):
        with pytest.raises(ValueError, match="input_shape must hold whole numbers >= 1, got 4"):
            layers.Dense(3, input_shape=4)

    def test_a_name_that_is_none(self):
        with pytest.raises(TypeError, match="a layer's name must be a string, got 5"):
            layers.Dense(3, name=5)

    def test_an_axis_that_the_input_has_not(self):
        with pytest.raises(ValueError, match="axis must be one of the 4 of the input, got 4"):
            layers.Softmax(4)(torch.zeros(1, 2, 3, 3))


def test_window_arithmetic_against_counting():
    for size in range(1, 12):
        for window in range(1, 5):
            for stride in range(1, 4):
                for dilation in range(1, 3):
                    reach = dilation * (window - 1) + 1
                    if reach <= size:
                        starts = [s for s in range(0, size, stride) if s + reach <= size]
                        got = windows.output_size(size, window, stride, "valid", dilation)
                        assert got == len(starts)
                    before, after = windows.same_padding(size, window, stride, dilation)
                    wanted = windows.output_size(size, window, stride, "same", dilation)
                    padded = size + before + after
                    assert windows.output_size(padded, window, stride, "valid", dilation) == wanted
                    assert after - before in (0, 1)


def test_every_layer_comes_back_from_its_configuration():
    arguments = {
        "Conv2D": (4, 3),
        "Conv1D": (4, 3),
        "Conv2DTranspose": (4, 3),
        "Dense": (4,),
        "Dropout": (0.1,),
        "SpatialDropout2D": (0.1,),
        "GaussianDropout": (0.1,),
        "GaussianNoise": (0.1,),
        "AlphaDropout": (0.1,),
        "DropPath": (0.1,),
        "Residual": ([layers.Dense(2), layers.DropPath(0.1)], [layers.Dense(2)]),
        "GroupNormalization": (2,),
        "Activation": ("tanh",),
        "Reshape": ((2, -1),),
        "Rescaling": (0.5,),
        "PatchWhitening": (8,),
        "MeanOfViews": (6,),
        "Architecture": ("resnet_cifar", {"depth": 8}),
    }
    for name, kind in layers.TABLE.items():
        layer = kind(*arguments.get(name, ()))
        config = json.loads(json.dumps(layer.get_config()))
        again = kind(**config)
        assert again.get_config() == layer.get_config(), name
        assert repr(again) == repr(layer), name
