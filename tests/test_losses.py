"""Losses and metrics: formulas by hand, logits beside probabilities, what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pyconvopt import layers, losses, metrics, models
from tests.small_models import dense, points


class TestLosses:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
    labels = torch.tensor([2, 1])

    def test_logits_and_probabilities_agree(self):
        probabilities = torch.softmax(self.logits, 1)
        sparse = losses.get("sparse_categorical_crossentropy")
        one_hot = torch.eye(3)[self.labels]
        categorical = losses.get("categorical_crossentropy")
        values = [
            sparse(self.logits, self.labels, True),
            sparse(probabilities, self.labels),
            categorical(self.logits, one_hot, True),
            categorical(probabilities, one_hot),
            losses.get("cross_entropy")(self.logits, self.labels),
        ]
        by_hand = -(math.log(probabilities[0, 2]) + math.log(probabilities[1, 1])) / 2
        assert [value.item() for value in values] == pytest.approx([by_hand] * 5, rel=1e-5)

    def test_softmax_is_taken_into_the_loss(self):
        # Probabilities in float32 would be 0 and 1 here, and their clipped logarithm 16.1.
        model = models.Sequential([layers.Activation("softmax", input_shape=(2,))])
        model.compile("sgd", "sparse_categorical_crossentropy")
        assert model.evaluate([[200.0, 0.0]], [1], verbose=0) == pytest.approx(200.0)
        model.compile("sgd", nn.CrossEntropyLoss())
        assert model.evaluate([[200.0, 0.0]], [1], verbose=0) == pytest.approx(200.0)

    def test_probabilities_are_clipped_as_in_keras(self):
        loss = losses.get("sparse_categorical_crossentropy")
        value = loss(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
        assert value.item() == pytest.approx(-math.log(1e-7), rel=1e-5)
        binary = losses.get("binary_crossentropy")
        assert binary(torch.tensor([[0.0]]), torch.tensor([[1.0]])).item() == pytest.approx(
            -math.log(1e-7), rel=1e-5
        )

    def test_sigmoid_is_taken_into_the_loss(self):
        model = models.Sequential([layers.Activation("sigmoid", input_shape=(1,))])
        model.compile("sgd", "binary_crossentropy", ["acc"])
        loss, accuracy = model.evaluate([[-100.0], [1.0]], [1, 1], verbose=0)
        assert loss == pytest.approx((100 + math.log(1 + math.exp(-1))) / 2)
        assert accuracy == 0.5

    def test_label_smoothing(self):
        smooth = losses.CategoricalCrossentropy(label_smoothing=0.3)
        targets = torch.tensor([[0.1, 0.1, 0.8]])
        plain = losses.CategoricalCrossentropy()
        one_hot = torch.tensor([[0.0, 0.0, 1.0]])
        torch.testing.assert_close(
            smooth(self.logits[:1], one_hot, True), plain(self.logits[:1], targets, True)
        )

    def test_label_smoothing_of_class_numbers_is_torchs(self):
        wanted = torch.nn.functional.cross_entropy(self.logits, self.labels, label_smoothing=0.2)
        smooth = losses.SparseCategoricalCrossentropy(label_smoothing=0.2)
        torch.testing.assert_close(smooth(self.logits, self.labels, True), wanted)
        torch.testing.assert_close(smooth(self.logits.softmax(1), self.labels), wanted)

    def test_label_smoothing_of_two_classes(self):
        # Target 1 becomes 0.9 + 0.05: -(0.95·ln 0.8 + 0.05·ln 0.2).
        smooth = losses.BinaryCrossentropy(label_smoothing=0.1)
        value = smooth(torch.tensor([[0.8]]), torch.tensor([[1.0]]))
        assert value.item() == pytest.approx(-(0.95 * math.log(0.8) + 0.05 * math.log(0.2)))
        with pytest.raises(ValueError, match=r"label_smoothing must lie in 0 ... 1, got 2"):
            losses.BinaryCrossentropy(label_smoothing=2)

    def test_soft_labels(self):
        soft = torch.softmax(torch.randn(self.logits.shape), 1)
        wanted = -(soft * self.logits.log_softmax(1)).sum(1).mean()
        for name in ("sparse_categorical_crossentropy", "categorical_crossentropy"):
            loss = losses.get(name)
            torch.testing.assert_close(loss(self.logits, soft, True), wanted)
            torch.testing.assert_close(loss(self.logits.softmax(1), soft), wanted)
            loss.check(self.logits, soft, True)

    def test_functions_of_ones_own(self):
        model = dense(layers.Dense(1), loss=lambda outputs, targets: (outputs - targets) ** 4)
        before = model.evaluate(*points(), verbose=0)[0]
        model.fit(*points(), epochs=3, verbose=0)
        assert model.evaluate(*points(), verbose=0)[0] < before


class TestMetrics:
    def test_weighs_samples_alike_over_unequal_batches(self):
        accuracy = metrics.get("accuracy")
        accuracy.update(torch.tensor([[0.0, 1.0]]), torch.tensor([1]))
        accuracy.update(torch.eye(2)[[0, 0, 0]], torch.tensor([1, 1, 1]))
        assert accuracy.result() == 0.25

    def test_top_k(self):
        top = metrics.TopKAccuracy(k=2)
        outputs = torch.tensor([[0.1, 0.5, 0.4], [0.6, 0.3, 0.1]])
        top.update(outputs, torch.tensor([2, 2]))
        assert top.result() == 0.5
        top.reset()
        top.update(outputs, torch.eye(3)[[2, 1]])
        assert top.result() == 1.0
        with pytest.raises(ValueError, match="top-5 accuracy of only 3"):
            metrics.get("top_k_accuracy").update(outputs, torch.tensor([0, 0]))

    def test_errors_of_regression(self):
        for name, value in (("mse", 2.5), ("mae", 1.5)):
            metric = metrics.get(name)
            metric.update(torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [4.0]]))
            assert metric.result() == value
