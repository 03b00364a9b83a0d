"""Losses and metrics: formulas by hand, logits beside probabilities, what is refused."""

from __future__ import annotations

import math

import numpy as np
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

    def test_errors_are_those_of_the_outputs_not_of_the_logits(self):
        x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
        for activation, loss in (
            ("softmax", "categorical_crossentropy"),
            ("sigmoid", "binary_crossentropy"),
        ):
            model = models.Sequential([layers.Dense(4, activation, input_shape=(3,))])
            model.compile("sgd", loss, ["mse", "mae"])
            y = np.eye(4)[np.arange(40) % 4]
            error = model.predict(x).astype(np.float64) - y
            wanted = [np.mean(error**2), np.mean(np.abs(error))]
            assert model.evaluate(x, y, batch_size=9, verbose=0)[1:] == pytest.approx(wanted)

    def test_torchmetrics_gets_the_outputs_not_the_logits(self):
        class MeanOutput:
            def reset(self):
                self.seen = []

            def update(self, outputs, targets):
                self.seen.append(outputs)

            def compute(self):
                return torch.cat(self.seen).mean()

        x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
        model = models.Sequential([layers.Dense(1, "sigmoid", input_shape=(3,))])
        model.compile("sgd", "binary_crossentropy", [MeanOutput()])
        mean = model.evaluate(x, np.ones((6, 1)), verbose=0)[1]
        assert mean == pytest.approx(model.predict(x).mean(), rel=1e-6)

    def test_errors_need_targets_of_the_outputs_shape(self):
        for name in ("mse", "mae", "binary_accuracy"):
            with pytest.raises(
                ValueError, match=rf"{name} compares outputs and targets of one shape"
            ):
                metrics.get(name).update(torch.zeros(4, 4), torch.arange(4))
            row = metrics.get(name)
            row.update(torch.ones(4, 1), torch.tensor([0.0, 1.0, 1.0, 1.0]))
            assert row.result() == (0.75 if name == "binary_accuracy" else 0.25)

    def test_binary_accuracy_of_many_outputs(self):
        outputs = torch.tensor([[0.9, 0.2, 0.6], [0.1, 0.4, 0.8]])
        targets = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
        metric = metrics.get("binary_accuracy")
        metric.update(outputs, targets)
        assert metric.result() == pytest.approx(4 / 6)
        strict = metrics.BinaryAccuracy(threshold=0.7)
        strict.activation = "sigmoid"
        strict.update(outputs.logit(), targets, True)
        assert strict.result() == pytest.approx(3 / 6)
        again = metrics.get(metrics.describe(strict))
        assert (type(again), again.threshold) == (metrics.BinaryAccuracy, 0.7)

    def test_places_of_a_map_count_as_their_share(self):
        generator = torch.Generator().manual_seed(0)
        outputs = torch.rand(3, 1, 4, 5, generator=generator)
        targets = (torch.rand(3, 1, 4, 5, generator=generator) > 0.5).float()
        binary = metrics.get("accuracy")
        binary.update(outputs, targets)
        assert binary.result() == pytest.approx(((outputs > 0.5) == (targets > 0.5)).float().mean())
        outputs = torch.rand(3, 6, 4, 5, generator=generator)
        labels = torch.randint(6, (3, 4, 5), generator=generator)
        top = metrics.TopKAccuracy(k=2)
        top.update(outputs, labels)
        hits = (outputs.topk(2, dim=1).indices == labels[:, None]).any(1).float()
        assert top.result() == pytest.approx(hits.mean().item())

    @pytest.mark.parametrize("name", ["accuracy", "top_k_accuracy", "confusion_matrix"])
    def test_class_numbers_in_a_column(self, name):
        metric = metrics.TopKAccuracy(k=1) if name == "top_k_accuracy" else metrics.get(name)
        metric.update(torch.eye(3), torch.tensor([[0], [1], [2]]))
        assert metric.result() == 1

    def test_refusals(self):
        for call, kind, message in (
            (lambda: metrics.TopKAccuracy(k=0), ValueError, "k must be a whole number >= 1, got 0"),
            (lambda: metrics.BinaryAccuracy(2), ValueError, "threshold must lie in 0 ... 1, got 2"),
            (lambda: metrics.get(metrics.Accuracy), TypeError, r"write Accuracy\(\)"),
            (
                lambda: metrics.get({"metric": "accuracy", "config": {"k": 3}}),
                ValueError,
                "metric 'accuracy': .*argument 'k'",
            ),
            (
                lambda: metrics.get("confusion_matrix").update(torch.eye(2), torch.tensor([0, 2])),
                ValueError,
                "label 2 is out of range",
            ),
            (lambda: losses.Huber(delta=0), ValueError, "delta must be above 0, got 0"),
        ):
            with pytest.raises(kind, match=message):
                call()
        model = models.Sequential([layers.Dense(1, "sigmoid", input_shape=(2,))])
        model.compile("sgd", "binary_crossentropy")
        with pytest.raises(ValueError, match=r"wants labels in 0 ... 1, got labels in -1 ... 1"):
            model.evaluate(np.ones((2, 2)), np.array([-1, 1]), verbose=0)
