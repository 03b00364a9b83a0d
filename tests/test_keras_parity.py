"""Beside real Keras, on the same weights: outputs, loss, every gradient, moving statistics."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="Keras is an optional test dependency")
if keras.backend.backend() != "torch":
    pytest.skip("Keras runs on another backend here", allow_module_level=True)

from pyconvopt import layers, models  # noqa: E402


def article(kinds) -> list:
    return [
        kinds.Conv2D(32, (3, 3), activation="relu"),
        kinds.MaxPooling2D((2, 2)),
        kinds.Conv2D(64, (3, 3), activation="relu"),
        kinds.MaxPooling2D((2, 2)),
        kinds.Conv2D(64, (3, 3), activation="relu"),
        kinds.Flatten(),
        kinds.Dense(64, activation="relu"),
        kinds.Dense(10, activation="softmax"),
    ]


def normalised(kinds) -> list:
    return [
        kinds.Conv2D(8, 3, strides=2, padding="same", use_bias=False),
        kinds.BatchNormalization(momentum=0.9),
        kinds.Activation("relu"),
        kinds.Dropout(0.0),
        kinds.Conv2D(12, (2, 3), dilation_rate=(1, 2), groups=4, activation="tanh"),
        kinds.AveragePooling2D(3, 1, padding="same"),
        kinds.Conv2D(6, 1, activation="gelu"),
        kinds.GlobalAveragePooling2D(),
        kinds.Dense(16, activation="leaky_relu"),
        kinds.BatchNormalization(),
        kinds.ReLU(max_value=1.5, negative_slope=0.1),
        kinds.Dense(10, activation="softmax"),
    ]


def pooled(kinds) -> list:
    return [
        kinds.Conv2D(5, 4, strides=3, padding="same", activation="swish"),
        kinds.MaxPooling2D(3, 2, padding="same"),
        kinds.Flatten(),
        kinds.Dense(10),
        kinds.Softmax(),
    ]


def per_sample(kinds) -> list:
    return [
        kinds.Rescaling(2.0, offset=-0.5),
        kinds.ZeroPadding2D(((1, 0), (2, 1))),
        kinds.Conv2D(8, 3, strides=2),
        kinds.GroupNormalization(4),
        kinds.PReLU(alpha_initializer="glorot_uniform", shared_axes=(1, 2)),
        kinds.GaussianDropout(0.0),
        kinds.AlphaDropout(0.0),
        kinds.SpatialDropout2D(0.0),
        kinds.Cropping2D((1, 2)),
        kinds.UpSampling2D((1, 2), interpolation="bilinear"),
        kinds.Conv2D(24, 3, activation="elu"),
        kinds.LayerNormalization(),
        kinds.LeakyReLU(negative_slope=0.1),
        kinds.UpSampling2D(2),
        kinds.PReLU(),
        kinds.GroupNormalization(-1, scale=False),
        kinds.ELU(0.7),
        kinds.GlobalMaxPooling2D(),
        kinds.Reshape((2, -1)),
        kinds.LayerNormalization(center=False),
        kinds.Flatten(),
        kinds.Dense(10, activation="softmax"),
    ]


def transposed(kinds) -> list:
    return [
        kinds.Conv2D(4, 3, strides=2, padding="same", activation="relu"),
        kinds.Conv2DTranspose(6, 3, strides=2, padding="same", activation="elu"),
        kinds.Conv2DTranspose(5, (2, 4), padding="same"),
        kinds.Conv2D(8, 3, strides=3, activation="mish"),
        kinds.Conv2DTranspose(4, 3, activation="tanh"),
        kinds.Conv2DTranspose(4, (2, 3), strides=(3, 2), output_padding=(1, 0)),
        kinds.MaxPooling2D(3),
        kinds.Conv2DTranspose(3, 3, dilation_rate=2, use_bias=False),
        kinds.Conv2DTranspose(3, 5, strides=2, padding="same", output_padding=1),
        kinds.GlobalAveragePooling2D(),
        kinds.Dense(10, activation="softmax"),
    ]


def along_one_axis(kinds) -> list:
    return [
        kinds.Reshape((28, 28)),
        kinds.Conv1D(8, 5, padding="causal", activation="relu"),
        kinds.Conv1D(6, 3, strides=2, padding="same", groups=2),
        kinds.Conv1D(6, 3, padding="causal", dilation_rate=2, use_bias=False),
        kinds.Conv1D(4, 2, strides=3, activation="silu"),
        kinds.Flatten(),
        kinds.Dense(10, activation="softmax"),
    ]


@pytest.fixture(params=[article, normalised, pooled, per_sample, transposed, along_one_axis])
def pair(request):
    """The same model in Keras and here, with the same weights, none at its start."""
    keras.utils.set_random_seed(0)
    theirs = keras.Sequential([keras.Input((28, 28, 1)), *request.param(keras.layers)])
    ours = models.Sequential([layers.Input((28, 28, 1)), *request.param(layers)])
    generator = np.random.default_rng(0)
    weights = [
        (each + 0.05 * generator.normal(size=each.shape)).astype(np.float32)
        for each in theirs.get_weights()
    ]
    theirs.set_weights(weights)
    ours.set_weights(weights)
    return theirs, ours


@pytest.fixture
def batch():
    generator = np.random.default_rng(1)
    return generator.random((16, 28, 28, 1), dtype=np.float32), generator.integers(0, 10, 16)


def close(got, wanted, tolerance=1e-5):
    """Equal up to `tolerance` of the wanted values' root mean square."""
    scale = np.sqrt(np.mean(np.square(wanted))) + 1e-12
    assert np.max(np.abs(got - wanted)) <= tolerance * 10 * scale


def test_outputs(pair, batch):
    theirs, ours = pair
    close(ours.predict(batch[0]), theirs.predict(batch[0], verbose=0))


def test_parameter_counts_and_shapes(pair):
    theirs, ours = pair
    assert ours.count_params() == theirs.count_params()
    assert [each.output_shape for each in ours.layers] == [
        tuple(each.output.shape) for each in theirs.layers
    ]


def test_loss_accuracy_and_evaluate(pair, batch):
    theirs, ours = pair
    for model in pair:
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    wanted = theirs.evaluate(*batch, verbose=0)
    assert ours.evaluate(*batch, verbose=0) == pytest.approx(wanted, rel=1e-5)


def test_gradients_of_every_parameter_and_moving_statistics(pair, batch):
    theirs, ours = pair
    x, y = torch.from_numpy(batch[0]), torch.from_numpy(batch[1])

    theirs.zero_grad()
    probabilities = theirs(x, training=True)
    keras.losses.SparseCategoricalCrossentropy()(y, probabilities).backward()
    wanted = [each.value.grad.detach().numpy() for each in theirs.trainable_weights]

    ours.train()
    ours.zero_grad()
    torch.nn.functional.cross_entropy(ours(x, logits=True), y).backward()
    views = [
        (layer, name, view)
        for layer in ours.layers
        for name, view in layer.keras_weights()
        if not name.startswith("moving")
    ]
    assert len(views) == len(wanted)
    for layer, name, _ in views:
        parameter = layer.bias if name in ("bias", "beta") else layer.weight
        gradient = parameter.grad
        if name == "kernel":
            gradient = gradient.permute(2, 3, 1, 0) if gradient.dim() == 4 else gradient.t()
        # A bias before batch norm has no influence: its gradient is rounding on both sides.
        reference = wanted.pop(0)
        if np.abs(reference).max() > 1e-6:
            close(gradient.numpy(), reference, tolerance=1e-4)

    for got, expected in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_training_follows_keras(pair, batch):
    """Three steps of plain SGD end at the same weights, moving statistics included."""
    theirs, ours = pair
    theirs.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy")
    ours.compile(
        lambda parameters: torch.optim.SGD(parameters, 0.05), "sparse_categorical_crossentropy"
    )
    for model in pair:
        model.fit(*batch, epochs=3, batch_size=16, shuffle=False, verbose=0)
    for got, wanted in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4)


def test_losses_of_probabilities():
    generator = np.random.default_rng(0)
    raw = generator.random((5, 4)).astype(np.float32)
    probabilities = raw / raw.sum(1, keepdims=True)
    labels = generator.integers(0, 4, 5)
    one_hot = np.eye(4, dtype=np.float32)[labels]
    from pyconvopt import losses

    for name, targets in (
        ("sparse_categorical_crossentropy", labels),
        ("categorical_crossentropy", one_hot),
        ("binary_crossentropy", one_hot),
        ("mean_squared_error", one_hot),
        ("mean_absolute_error", one_hot),
        ("huber", one_hot),
    ):
        for outputs in (probabilities, np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0]]):
            wanted = float(
                np.mean(
                    keras.ops.convert_to_numpy(
                        keras.losses.get(name)(torch.from_numpy(targets), torch.from_numpy(outputs))
                    )
                )
            )
            got = losses.get(name)(torch.from_numpy(outputs), torch.from_numpy(targets)).item()
            assert got == pytest.approx(wanted, rel=1e-5), name


def test_activations():
    from pyconvopt import activations

    x = torch.linspace(-4, 4, 41).reshape(1, 41)
    for name in activations.TABLE:
        wanted = keras.activations.get(name)(x)
        torch.testing.assert_close(activations.get(name)(x), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("stride", "output_padding"), [(1, None), (2, None), (3, None), (3, 2)])
def test_conv2d_transpose_over_its_sizes(padding, kernel, stride, output_padding):
    arguments = {"strides": stride, "padding": padding, "output_padding": output_padding}
    ours = layers.Conv2DTranspose(3, kernel, **arguments, input_shape=(5, 4, 2))
    theirs = keras.layers.Conv2DTranspose(3, kernel, **arguments)
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 2)).astype(np.float32)
    wanted = keras.ops.convert_to_numpy(theirs(x))
    ours.build((None, 5, 4, 2))
    ours.set_weights(theirs.get_weights())
    y = ours(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert ours.output_shape == (None, *wanted.shape[1:])
    np.testing.assert_allclose(y.detach().numpy(), wanted, atol=1e-5)
