"""The article's program as it stands, and its formulas with numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pyconvopt import data, layers, losses, models, regularizers
from pyconvopt.data import datasets
from tests.tiny_data import write_tiny_set


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """A slice of Fashion-MNIST, or where that is missing, images a network can tell apart."""
    if (datasets.SYSTEM_FOLDER / "fashion-mnist").is_dir():
        (train_images, train_labels), (test_images, test_labels) = data.fashion_mnist()
    else:
        made = write_tiny_set(tmp_path_factory.mktemp("data"), 2000, 500)
        train_images, train_labels, test_images, test_labels = made
    return (
        train_images[:2000].reshape(-1, 28, 28, 1).astype("float32") / 255,
        train_labels[:2000],
        test_images[:500].reshape(-1, 28, 28, 1).astype("float32") / 255,
        test_labels[:500],
    )


def test_the_program(arrays, capsys):
    train_images, train_labels, test_images, test_labels = arrays

    # fmt: off
    model = models.Sequential()
    model.add(layers.Conv2D(32, (3, 3), activation='relu', input_shape=(28, 28, 1)))
    model.add(layers.MaxPooling2D((2, 2)))
    model.add(layers.Conv2D(64, (3, 3), activation='relu'))
    model.add(layers.MaxPooling2D((2, 2)))
    model.add(layers.Conv2D(64, (3, 3), activation='relu'))
    model.add(layers.Flatten())
    model.add(layers.Dense(64, activation='relu'))
    model.add(layers.Dense(10, activation='softmax'))
    model.compile(optimizer='adam', loss='sparse_categorical_crossentropy', metrics=['accuracy'])
    model.fit(train_images, train_labels, epochs=5, batch_size=64)
    test_loss, test_acc = model.evaluate(test_images, test_labels)
    # fmt: on

    # 2,000 images and five epochs: about 0.75; guessing is 0.1.
    assert test_acc > 0.65 and test_loss < 1.0
    assert capsys.readouterr().out.count("epoch ") == 5
    predictions = model.predict(test_images)
    assert predictions.shape == (500, 10)
    np.testing.assert_allclose(predictions.sum(1), 1, rtol=1e-5)
    assert (predictions.argmax(1) == test_labels).mean() == pytest.approx(test_acc)


def test_batch_normalisation():
    """x̂ = (x - μ) / √(σ² + ε), y = γ·x̂ + β, over the batch."""
    x = np.array([[2.0, -1.0], [4.0, 1.0], [6.0, 3.0], [8.0, 5.0]])
    # μ = (5, 2), σ² = (9 + 1 + 1 + 9)/4 = 5 for both; ε = 4 makes the root 3.
    gamma, beta = np.array([3.0, 6.0]), np.array([1.0, -1.0])
    layer = layers.BatchNormalization(epsilon=4.0)
    layer.build((None, 2))
    layer.set_weights([gamma, beta, np.zeros(2), np.ones(2)])
    y = layer(torch.from_numpy(x.astype(np.float32))).detach().numpy()
    expected = [[-2.0, -7.0], [0.0, -3.0], [2.0, 1.0], [4.0, 5.0]]
    np.testing.assert_allclose(y, expected, rtol=1e-6)


def test_cross_entropy():
    """L = -1/N Σ log p[label], p = exp(z) / Σ exp(z)."""
    logits = torch.log(torch.tensor([[1.0, 2.0, 1.0], [6.0, 1.0, 1.0]]))
    labels = torch.tensor([1, 2])
    # p of the labels: 2/4 and 1/8, so the loss is (ln 2 + ln 8)/2 = 2·ln 2.
    loss = losses.get("sparse_categorical_crossentropy")
    assert loss(logits, labels, from_logits=True).item() == pytest.approx(2 * math.log(2))
    assert loss(logits.softmax(1), labels).item() == pytest.approx(2 * math.log(2))


def test_gradient_of_cross_entropy_is_probability_minus_one_hot():
    logits = torch.log(torch.tensor([[1.0, 2.0, 1.0]])).requires_grad_()
    losses.get("sparse_categorical_crossentropy")(logits, torch.tensor([1]), True).backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.25, -0.5, 0.25]]))


def test_regularised_loss():
    """L1: L + l·Σ|w|; L2: L + (l/2)·Σw²."""
    x, y = np.array([[1.0, 2.0]]), np.array([[0.0]])
    # Output 3·1 - 1·2 = 1, so L = 1; Σ|w| = 4, Σw² = 10.
    for regularizer, expected in (
        (None, 1.0),
        (regularizers.L1(0.1), 1.4),
        (regularizers.L2(0.1), 1.5),
        (regularizers.L1L2(0.1, 0.1), 1.9),
    ):
        model = models.Sequential(
            [layers.Dense(1, kernel_regularizer=regularizer, input_shape=(2,))]
        )
        model.set_weights([np.array([[3.0], [-1.0]]), np.zeros(1)])
        model.compile("sgd", "mse")
        assert model.evaluate(x, y, verbose=0) == pytest.approx(expected)
