"""Layers that adapt to the images, and whole architectures as layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyconvopt import layers, models
from pyconvopt.data import MappedArray

pytest.importorskip("safetensors")


def keras_layers():
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    if keras.backend.backend() != "torch":
        pytest.skip("Keras runs on another backend")
    return keras.layers


@pytest.fixture
def images():
    generator = np.random.default_rng(0)
    return generator.normal((1, -2, 30), (1, 2, 5), (60, 6, 5, 3)).astype(np.float32)


class TestNormalization:
    @pytest.mark.parametrize("axis", [-1, None])
    @pytest.mark.parametrize("invert", [False, True])
    def test_as_keras(self, images, axis, invert):
        wanted = keras_layers().Normalization(axis=axis, invert=invert)
        wanted.adapt(images)
        layer = layers.Normalization(axis=axis, invert=invert)
        layer.adapt(images)
        model = models.Sequential([layer])
        np.testing.assert_allclose(
            model.predict(images), wanted(images).cpu().numpy(), rtol=1e-4, atol=1e-4
        )

    def test_by_hand(self):
        layer = layers.Normalization()
        layer.adapt(np.array([[1, 10], [3, 30]], np.uint8))
        mean, variance = layer.get_weights()
        assert mean.tolist() == [2, 20] and variance.tolist() == [1, 100]

    def test_large_numbers_and_many_parts(self):
        x = np.random.default_rng(0).normal(1e6, 1.0, (9001, 2))
        layer = layers.Normalization()
        layer.adapt(x)
        np.testing.assert_allclose(layer.get_weights()[1], x.var(axis=0), rtol=1e-5)

    def test_from_disk(self, images, tmp_path):
        np.save(tmp_path / "x.npy", images)
        mapped, memory = layers.Normalization(), layers.Normalization()
        mapped.adapt(MappedArray(tmp_path / "x.npy"))
        memory.adapt(images)
        assert torch.equal(mapped.mean_of_data, memory.mean_of_data)

    def test_saved_with_the_model_and_never_trained(self, images, tmp_path):
        model = models.Sequential([layers.Normalization(), layers.Flatten(), layers.Dense(2)])
        model.adapt(images)
        model.compile("sgd", "mse")
        before = model.layers[0].get_weights()
        model.fit(images, np.zeros((60, 2)), verbose=0)
        for got, wanted in zip(model.layers[0].get_weights(), before, strict=True):
            np.testing.assert_array_equal(got, wanted)
        assert not list(model.layers[0].parameters())
        model.save(tmp_path / "model")
        again = models.load(tmp_path / "model")
        np.testing.assert_array_equal(again.predict(images), model.predict(images))

    def test_a_constant_channel(self):
        layer = layers.Normalization()
        layer.adapt(np.ones((4, 2)))
        assert layer(torch.ones(1, 2)).abs().max() < 1e-3

    def test_given_numbers(self):
        layer = layers.Normalization(mean=[1.0, 2.0], variance=4.0)
        assert layer(torch.tensor([[3.0, 2.0]])).tolist() == [[1.0, 0.0]]

    def test_refusals(self, images):
        layer = layers.Normalization()
        layer.adapt(images)
        for call, message in (
            (lambda: layers.Normalization(axis=1), "axis must be -1"),
            (lambda: layers.Normalization(mean=1.0), "given together"),
            (lambda: layers.Normalization(mean=[1, 2], variance=1)(torch.ones(1, 3)), "3 channels"),
            (lambda: layer.adapt(images[..., :2]), "built for 3 channels, got data"),
            (lambda: layer.adapt(images[:0]), "images are empty"),
        ):
            with pytest.raises(ValueError, match=message):
                call()


class TestGivenAndDamagedNumbers:
    def test_what_was_given_stays(self, images):
        given = layers.Normalization(mean=3.0, variance=4.0, input_shape=images.shape[1:])
        model = models.Sequential([given, layers.Normalization()])
        model.adapt(images)
        assert given.mean_of_data.unique().tolist() == [3.0]
        with pytest.raises(ValueError, match="was given its mean and variance"):
            given.adapt(images)

    def test_views_are_left_out_on_both_ends(self, images):
        model = models.Sequential(
            [
                layers.Views(input_shape=images.shape[1:]),
                layers.MeanOfViews(2),
                layers.Normalization(),
            ]
        )
        model.adapt(images)
        plain = layers.Normalization()
        plain.adapt(images)
        torch.testing.assert_close(model.layers[2].mean_of_data, plain.mean_of_data)
        torch.testing.assert_close(model.layers[2].variance_of_data, plain.variance_of_data)

    def test_refusals(self):
        with pytest.raises(ValueError, match=r"variance must be 0 or more, got -1"):
            layers.Normalization(mean=0.0, variance=-1.0)
        for wrong in (np.nan, np.inf):
            with pytest.raises(ValueError, match="NaN or infinite"):
                layers.Normalization().adapt(np.array([[1.0, wrong], [2.0, 3.0]]))


class TestPatchWhitening:
    def test_outputs_are_uncorrelated(self, images):
        layer = layers.PatchWhitening(12, 2, eps=0.0)
        model = models.Sequential([layers.Normalization(), layer])
        model.adapt(images)
        outputs = model.predict(images).reshape(-1, 12)
        np.testing.assert_allclose(np.cov(outputs.T, bias=True), np.eye(12), atol=1e-3)

    def test_frozen_saved_and_fused_with_its_relu(self, images, tmp_path):
        model = models.Sequential(
            [
                layers.PatchWhitening(24, 2, padding="same", activation="relu"),
                layers.GlobalMaxPooling2D(),
                layers.Dense(2, "softmax"),
            ]
        )
        model.adapt(images)
        model.compile("sgd", "sparse_categorical_crossentropy")
        before = model.layers[0].weight.clone()
        model.fit(images, np.arange(60) % 2, verbose=0)
        assert torch.equal(model.layers[0].weight, before)
        assert model.layers[0].weight.grad is None
        model.save(tmp_path / "model")
        again = models.load(tmp_path / "model")
        assert again.layers[0].trainable is False
        np.testing.assert_array_equal(again.predict(images), model.predict(images))

    def test_both_signs_reach_a_relu(self, images):
        layer = layers.PatchWhitening(24, 2)
        layer.adapt(images)
        assert torch.equal(layer.weight[:12], -layer.weight[12:])

    def test_refusals(self):
        with pytest.raises(ValueError, match="give 8 whitening filters, got filters=9"):
            layers.PatchWhitening(9, 2).build((None, 8, 8, 1))
        with pytest.raises(ValueError, match="eps must be 0 or more"):
            layers.PatchWhitening(8, 2, eps=-1.0)


class TestArchitecture:
    def test_the_same_as_the_torch_module(self):
        layer = layers.Architecture("resnet_cifar", {"depth": 8, "num_classes": 4})
        model = models.Sequential([layer])
        x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
        got = model.predict(x)
        module = models.resnet_cifar(8, num_classes=4).eval()
        module.load_state_dict(layer.network.state_dict())
        with torch.no_grad():
            wanted = module(torch.from_numpy(x).permute(0, 3, 1, 2))
        np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-4, atol=1e-5)

    def test_trained_and_read_back(self, images, tmp_path):
        model = models.Sequential(
            [
                layers.Architecture("mobilenet_v3_small", {"num_classes": 3, "small_images": True}),
                layers.Activation("softmax"),
            ]
        )
        model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
        model.fit(np.tile(images, (1, 4, 4, 1)), np.arange(60) % 3, verbose=0)
        model.save(tmp_path / "model")
        again = models.load(tmp_path / "model")
        x = np.tile(images[:5], (1, 4, 4, 1))
        np.testing.assert_array_equal(again.predict(x), model.predict(x))

    def test_what_the_summary_tells(self):
        layer = layers.Architecture("vgg11_bn", {"small_images": True, "num_classes": 10})
        layer.build((None, 28, 28, 1))
        convolutions = [(1, 64, 28), (64, 128, 28), (128, 256, 14), (256, 256, 14)]
        convolutions += [(256, 512, 7), (512, 512, 7), (512, 512, 3), (512, 512, 3)]
        multiplications = sum(9 * a * b * size**2 for a, b, size in convolutions) + 512 * 10
        assert layer.flops() == 2 * multiplications
        state = layer.network.state_dict().items()
        numbers = sum(each.numel() for name, each in state if not name.endswith("tracked"))
        assert layer.count_params() == numbers

    def test_segmentation(self):
        layer = layers.Architecture("unet", {"width": 4, "depth": 1, "num_classes": 3})
        layer.build((None, 8, 10, 1))
        assert layer.output_shape == (None, 8, 10, 3)
        assert layer(torch.zeros(2, 1, 8, 10)).shape == (2, 3, 8, 10)

    def test_refusals(self):
        for call, message in (
            (lambda: layers.Architecture("resnet81"), "did you mean 'resnet18'"),
            (lambda: layers.Architecture("resnet18", {"classes": 3}), "did you mean 'num_classes'"),
            (
                lambda: layers.Architecture("resnet18", {"in_channels": 3}),
                "follows from the images",
            ),
            (
                lambda: layers.Architecture("vgg11_bn").build((None, 8, 8, 3)),
                r"vgg11_bn cannot take images of shape \(N, 8, 8, 3\)",
            ),
        ):
            with pytest.raises(ValueError, match=message):
                call()
