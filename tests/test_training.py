"""The loop: what it learns, counts and refuses."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pyconvopt import diagnostics, layers, metrics, models
from pyconvopt.training import (
    LambdaCallback,
    ProgressBar,
    Trainer,
)
from tests.small_models import dense, points, sgd


class TestFit:
    def test_learns_and_records(self):
        x, y = points(400)
        model = dense(optimizer=lambda parameters: torch.optim.Adam(parameters, 0.02))
        history = model.fit(x, y, epochs=5, verbose=0, validation_data=points(100, 1))
        assert set(history.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
        assert history.epoch == [0, 1, 2, 3, 4] and len(history.seconds) == 5
        assert history.history["val_accuracy"][-1] > 0.93
        assert history.history["loss"][-1] < history.history["loss"][0] / 2
        loss, accuracy = model.evaluate(*points(100, 1), verbose=0)
        assert loss == pytest.approx(history.history["val_loss"][-1])
        assert accuracy == history.history["val_accuracy"][-1]

    def test_is_the_loop_one_would_write(self):
        x, y = points(20)
        model = dense(optimizer=sgd)
        twin = models.Sequential(
            [layers.Dense(8, "tanh", input_shape=(2,)), layers.Dense(2, activation="softmax")]
        )
        twin.set_weights(model.get_weights())
        history = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
        optimizer, means = sgd(twin.parameters()), []
        for _ in range(2):
            total = 0.0
            for start in range(0, 20, 8):
                batch = torch.from_numpy(x[start : start + 8])
                labels = torch.from_numpy(y[start : start + 8])
                optimizer.zero_grad()
                loss = -twin(batch).log()[torch.arange(len(batch)), labels].mean()
                loss.backward()
                optimizer.step()
                total += loss.item() * len(batch)
            means.append(total / 20)
        for got, wanted in zip(model.get_weights(), twin.get_weights(), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)
        assert history.history["loss"] == pytest.approx(means, rel=1e-5)

    def test_the_same_seed_gives_the_same_weights(self):
        def weights(seed):
            torch.manual_seed(3)
            model = dense()
            model.fit(*points(), epochs=2, seed=seed, verbose=0)
            return np.concatenate([each.ravel() for each in model.get_weights()])

        np.testing.assert_array_equal(weights(1), weights(1))
        assert not np.array_equal(weights(1), weights(2))

    def test_a_second_fit_goes_on_with_the_same_optimiser(self):
        model = dense()
        model.fit(*points(), verbose=0)
        first = model.optimizer
        model.fit(*points(), verbose=0)
        assert model.optimizer is first
        model.add(layers.Dense(2, activation="softmax"))
        model.fit(*points(), verbose=0)
        assert model.optimizer is not first

    def test_labels_as_keras_takes_them(self):
        x, y = points()
        columns = dense()
        columns.fit(x, y[:, None].astype(np.uint8), verbose=0)
        one_hot = dense(loss="categorical_crossentropy")
        one_hot.fit(x, np.eye(2)[y], verbose=0)
        binary = dense(layers.Dense(1, "sigmoid"), loss="binary_crossentropy")
        history = binary.fit(x, y, epochs=30, verbose=0)
        assert history.history["accuracy"][-1] > 0.8

    def test_validation_split_takes_the_end(self):
        x, y = points(100)
        model = dense(optimizer=sgd)
        history = model.fit(x, y, validation_split=0.25, verbose=0)
        assert history.params["samples"] == 75
        assert history.history["val_loss"][0] == pytest.approx(
            model.evaluate(x[75:], y[75:], verbose=0)[0]
        )

    def test_deferred_model_is_built_from_the_data(self):
        model = models.Sequential([layers.Flatten(), layers.Dense(2, "softmax")])
        model.compile("sgd", "sparse_categorical_crossentropy")
        model.fit(np.zeros((4, 3, 3, 1)), np.zeros(4, int), verbose=0)
        assert model.input_shape == (None, 3, 3, 1)

    def test_evaluate_forms(self):
        model = dense(metrics=None)
        assert isinstance(model.evaluate(*points(), verbose=0), float)
        assert set(model.evaluate(*points(), verbose=0, return_dict=True)) == {"loss"}

    def test_evaluation_with_weights(self):
        x, y = points()
        model = dense()
        weight = np.linspace(0, 2, 64)
        got = model.evaluate(x, y, verbose=0, sample_weight=weight)
        losses = -np.log(model.predict(x)[np.arange(64), y])
        assert got[0] == pytest.approx((weight * losses).mean(), rel=1e-5)

    @pytest.mark.parametrize("labels", [False, True])
    def test_predicting_batches_of_a_generator(self, labels):
        x, y = points()

        def batches():
            for start in range(0, 64, 20):
                rows = slice(start, start + 20)
                yield (x[rows], y[rows]) if labels else x[rows]

        model = dense()
        wanted = model.predict(x)
        for given in (batches, batches()):
            np.testing.assert_allclose(model.predict(given, verbose=0), wanted, rtol=1e-6)
        with pytest.raises(ValueError, match="no batch to predict on"):
            model.predict(iter([]))

    def test_what_is_printed_without_a_terminal(self, capsys):
        dense().fit(*points(), epochs=2, validation_data=points())
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 2 and lines[1].startswith("epoch 2/2")
        for part in ("images/s", "loss ", "accuracy ", "val_loss ", "val_accuracy "):
            assert part in lines[0]

    def test_the_bar_shows_the_numbers(self, capsys):
        pytest.importorskip("rich")
        model = dense()
        model.fit(*points(), epochs=2, verbose=0, callbacks=[ProgressBar(bar=True)])
        shown = capsys.readouterr().out
        assert "epoch 2/2" in shown and "images/s" in shown and "accuracy" in shown


class TestAnyModule:
    def model(self) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))

    def data(self):
        x = torch.randn(30, 1, 4, 4)
        return x, (x.mean((1, 2, 3)) > 0).long()

    @pytest.mark.parametrize("kind", ["tensors", "dataset", "loader"])
    def test_every_kind_of_data(self, kind):
        x, y = self.data()
        dataset = TensorDataset(x, y)
        given = {
            "tensors": (x, y),
            "dataset": torch.utils.data.Subset(dataset, range(30)),
            "loader": DataLoader(dataset, batch_size=10),
        }[kind]
        trainer = Trainer(self.model(), loss=nn.CrossEntropyLoss(), metrics=["accuracy"])
        history = trainer.fit(given, epochs=3, batch_size=10, validation=given, verbose=0)
        assert trainer.step_number == 9
        assert history.history["loss"][-1] < history.history["loss"][0]

    def test_evaluation_leaves_each_module_in_its_mode(self):
        model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 2))
        model.train()
        model[1].eval()
        Trainer(model).evaluate((torch.randn(6, 4), torch.zeros(6)))
        assert model.training and not model[1].training and model[2].training

    def test_double_precision(self):
        model = self.model().double()
        Trainer(model).fit(self.data(), verbose=0)
        assert model[0].weight.dtype == torch.float64

    def test_schedule_sets_the_rate_of_each_step(self):
        rates = []
        trainer = Trainer(self.model(), sgd, schedule=lambda step: 0.1 / (1 + step))
        record = LambdaCallback(
            on_train_batch_end=lambda *_: rates.append(trainer.optimizer.param_groups[0]["lr"])
        )
        trainer.fit(self.data(), batch_size=10, epochs=2, verbose=0, callbacks=[record])
        assert rates == pytest.approx([0.1 / (1 + step) for step in range(6)])

    def test_refusals(self):
        with pytest.raises(TypeError, match=r"nn.Module, got str"):
            Trainer("model")
        with pytest.raises(ValueError, match="no weights to train"):
            Trainer(nn.Flatten()).fit(self.data(), verbose=0)
        with pytest.raises(ValueError, match="both be called 'accuracy'"):
            Trainer(self.model(), metrics=["accuracy", "accuracy"])
        with pytest.raises(ValueError, match="batch of one reached a batch norm in training"):
            model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 3))
            Trainer(model).fit(self.data(), batch_size=29, verbose=0)


PLACES = [(3, 3), (4, 5), (1, 4), (3,), (6,), (1,)]  # with 3 samples and classes: any axis may be 3


def per_place(places, activation="softmax", classes=3) -> models.Sequential:
    """A class for each pixel of a map or step of a sequence."""
    kind = layers.Conv2D if len(places) == 2 else layers.Conv1D
    return models.Sequential([kind(classes, 1, activation=activation, input_shape=(*places, 2))])


def of_places(places, classes=3):
    generator = np.random.default_rng(1)
    x = generator.normal(size=(3, *places, 2)).astype(np.float32)
    return x, generator.integers(0, classes, (3, *places))


LABELS_OF_PLACES = {
    "sparse": ("sparse_categorical_crossentropy", lambda y: y),
    "column": ("sparse_categorical_crossentropy", lambda y: y[..., None].astype(np.uint8)),
    "one_hot": ("categorical_crossentropy", lambda y: np.eye(3)[y]),
    "torch": (nn.CrossEntropyLoss(), lambda y: y),
    "torch_column": (nn.CrossEntropyLoss(), lambda y: y[..., None]),
    "torch_one_hot": (nn.CrossEntropyLoss(), lambda y: np.eye(3)[y]),
}


class TestClassesOfPlaces:
    """Pixels of maps and steps of sequences: the classes are the last axis of a Sequential's outputs."""

    @pytest.mark.parametrize("places", PLACES)
    @pytest.mark.parametrize("kind", list(LABELS_OF_PLACES))
    def test_loss_metrics_and_step_by_hand(self, places, kind):
        loss, labelled = LABELS_OF_PLACES[kind]
        model, (x, y) = per_place(places), of_places(places)
        top, matrix = metrics.TopKAccuracy(2), metrics.ConfusionMatrix()
        model.compile(sgd, loss, ["accuracy", top, matrix])

        def by_hand():
            p = model.predict(x).astype(np.float64).reshape(-1, 3)
            flat = y.reshape(-1)
            counts = np.zeros((3, 3), int)
            np.add.at(counts, (flat, p.argmax(1)), 1)
            best = np.argsort(-p, axis=1)[:, :2] == flat[:, None]
            recall = [counts[c, c] / counts[c].sum() for c in range(3) if counts[c].any()]
            losses = -np.log(p[np.arange(len(p)), flat])
            means = [losses.mean(), (p.argmax(1) == flat).mean(), best.any(1).mean()]
            return [*means, np.mean(recall)], counts

        wanted, counts = by_hand()
        labels = labelled(y)
        assert model.evaluate(x, labels, batch_size=2, verbose=0) == pytest.approx(wanted, rel=1e-5)
        np.testing.assert_array_equal(matrix.matrix, counts)
        weight, bias = (torch.tensor(each.astype(np.float64)) for each in model.get_weights())
        weight = weight.reshape(2, 3).requires_grad_()
        logits = torch.tensor(x.astype(np.float64)).reshape(-1, 2) @ weight + bias
        picked = logits.log_softmax(1)[torch.arange(len(logits)), torch.tensor(y).reshape(-1)]
        (gradient,) = torch.autograd.grad(-picked.mean(), weight)
        history = model.fit(x, labels, validation_data=(x, labels), verbose=0).history
        stepped = (weight - 0.05 * gradient).detach().numpy()
        np.testing.assert_allclose(model.get_weights()[0].reshape(2, 3), stepped, atol=1e-6)
        names = ["loss", "accuracy", "top_k_accuracy", "balanced_accuracy"]
        assert [history[name][0] for name in names] == pytest.approx(wanted, rel=1e-5)
        after, _ = by_hand()
        assert [history[f"val_{name}"][0] for name in names] == pytest.approx(after, rel=1e-5)

    @pytest.mark.parametrize("places", PLACES)
    @pytest.mark.parametrize("kind", ["sparse", "column", "one_hot"])
    def test_weights_of_places(self, places, kind):
        loss, labelled = LABELS_OF_PLACES[kind]
        x, y = of_places(places)
        labels, weights = labelled(y), np.where(y == 1, 3.0, 0.5).astype(np.float32)
        by_class, by_place, both = (per_place(places) for _ in range(3))
        for model in (by_place, both):
            model.set_weights(by_class.get_weights())
        for model in (by_class, by_place, both):
            model.compile(sgd, loss)
        p = by_class.predict(x).astype(np.float64).reshape(-1, 3)
        flat = y.reshape(-1)
        wanted = (-np.log(p[np.arange(len(p)), flat]) * weights.reshape(-1)).mean()
        found = by_place.evaluate(x, labels, verbose=0, sample_weight=weights)
        assert found == pytest.approx(wanted, rel=1e-5)
        by_class.fit(x, labels, verbose=0, seed=1, class_weight={0: 0.5, 1: 3.0, 2: 0.5})
        by_place.fit(x, labels, verbose=0, seed=1, sample_weight=weights)
        halves = {0: 0.5, 1: 1.0, 2: 0.5}
        both.fit(
            x, labels, verbose=0, seed=1, class_weight=halves,
            sample_weight=np.where(y == 1, 3.0, 1.0),
        )  # fmt: skip
        for model in (by_place, both):
            for one, other in zip(model.get_weights(), by_class.get_weights(), strict=True):
                np.testing.assert_array_equal(one, other)
        with pytest.raises(
            ValueError, match=r"weights must be one a sample, .*pixels and steps may"
        ):
            by_place.fit(x, labels, verbose=0, sample_weight=weights[..., None][..., [0, 0]])

    @pytest.mark.parametrize("places", PLACES)
    @pytest.mark.parametrize("column", [False, True])
    @pytest.mark.parametrize("loss", ["binary_crossentropy", nn.BCEWithLogitsLoss()])
    def test_one_output_a_place(self, places, column, loss):
        model, (x, y) = per_place(places, "sigmoid", 1), of_places(places, 2)
        matrix = metrics.ConfusionMatrix()
        model.compile(sgd, loss, ["accuracy", "binary_accuracy", "mae", matrix])
        p = model.predict(x)[..., 0].astype(np.float64)
        right = ((p > 0.5) == y).mean()
        entropy = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
        labels = (y[..., None] if column else y).astype(np.float32)
        got = model.evaluate(x, labels, batch_size=2, verbose=0)
        assert got[:4] == pytest.approx([entropy, right, right, np.abs(p - y).mean()], rel=1e-5)
        assert matrix.matrix[1].sum() == y.sum() and matrix.matrix.trace() == right * y.size
        history = model.fit(x, labels, validation_data=(x, labels), verbose=0).history
        assert history["loss"][0] == pytest.approx(entropy, rel=1e-5)
        assert history["val_loss"][0] < entropy

    def test_soft_labels_of_a_batch(self):
        for places in PLACES:
            model, (x, _) = per_place(places), of_places(places)
            soft = np.random.default_rng(0).dirichlet([1, 1, 1], (3, *places))
            wanted = -(soft * np.log(model.predict(x).astype(np.float64))).sum(-1).mean()
            for loss in ("sparse_categorical_crossentropy", nn.CrossEntropyLoss()):
                model.compile("sgd", loss)
                assert model.evaluate(lambda x=x, y=soft: [(x, y)], verbose=0) == pytest.approx(
                    wanted, rel=1e-5
                )

    @pytest.mark.parametrize("places", PLACES)
    def test_a_function_of_ones_own_sees_what_predict_gives(self, places):
        model, (x, y) = per_place(places), of_places(places)
        seen = []

        def own(outputs, targets):
            seen.append((outputs.detach(), targets))
            return -outputs.gather(-1, targets[..., None]).log().mean()

        model.compile(sgd, own, ["accuracy"])
        p = model.predict(x)
        loss, accuracy = model.evaluate(x, y, verbose=0)
        np.testing.assert_allclose(seen[-1][0], p, rtol=1e-6)
        np.testing.assert_array_equal(seen[-1][1], y)
        assert accuracy == pytest.approx((p.argmax(-1) == y).mean())
        assert loss == pytest.approx(-np.log(np.take_along_axis(p, y[..., None], -1)).mean())
        model.compile(sgd, lambda outputs, targets: own(outputs, targets[..., 0]), ["accuracy"])
        assert model.evaluate(x, y[..., None], verbose=0) == pytest.approx([loss, accuracy])
        history = model.fit(x, y[..., None], verbose=0).history
        assert [history["loss"][0], history["accuracy"][0]] == pytest.approx([loss, accuracy])

    def test_functions_of_torch_have_the_classes_second(self):
        x, y = of_places((3, 3))
        model = per_place((3, 3), None)
        model.compile("sgd", nn.functional.cross_entropy)
        wanted = model.evaluate(x, y, verbose=0)
        model.compile("sgd", "cross_entropy")
        assert model.evaluate(x, y, verbose=0) == pytest.approx(wanted, rel=1e-6)
        smooth = partial(nn.functional.cross_entropy, label_smoothing=0.5)
        model.compile("sgd", smooth)
        got = model.evaluate(x, np.eye(3)[y], verbose=0)
        model.compile("sgd", nn.CrossEntropyLoss(label_smoothing=0.5))
        assert got == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-6) != wanted

    def test_a_model_of_torch_has_them_second_itself(self):
        x, y = of_places((3, 3))
        x, y = torch.tensor(x).permute(0, 3, 1, 2), torch.tensor(y)
        model = nn.Conv2d(2, 3, 1)
        logits = model(x).detach().double()
        wanted = -logits.log_softmax(1).gather(1, y[:, None]).mean().item()
        accuracy = (logits.argmax(1) == y).double().mean().item()
        seen = []

        def own(outputs, targets):
            seen.append(outputs)
            return nn.functional.cross_entropy(outputs, targets)

        for loss in ("cross_entropy", nn.CrossEntropyLoss(), nn.functional.cross_entropy, own):
            got = Trainer(model, loss=loss, metrics=["accuracy"]).evaluate((x, y))
            assert list(got.values()) == pytest.approx([wanted, accuracy], rel=1e-5)
        torch.testing.assert_close(seen[-1], model(x))

    def test_diagnostics_take_the_same_loss(self):
        x, y = of_places((3, 3))
        model = per_place((3, 3))
        model.compile("sgd", "sparse_categorical_crossentropy")
        model.evaluate(x, y, verbose=0)
        report = diagnostics.activations(model, torch.tensor(x), torch.tensor(y))
        before = model.get_weights()
        model.compile(sgd, "sparse_categorical_crossentropy")
        model.fit(x, y, verbose=0)
        steps = zip(model.get_weights(), before, strict=True)
        norm = np.sqrt(sum(((new - old) ** 2).sum() for new, old in steps)) / 0.05
        assert report.rows[0]["gradient"] == pytest.approx(norm, rel=1e-4)

    @pytest.mark.parametrize("places", [(3, 3), (3,), (4, 5)])
    def test_refusals(self, places):
        model, (x, y) = per_place(places), of_places(places)
        model.compile("sgd", "sparse_categorical_crossentropy")
        deep = y.copy()
        deep[2] = 3
        with pytest.raises(ValueError, match=r"label 3 is out of range.* 3 classes"):
            model.fit(x, deep, batch_size=2, shuffle=False, verbose=0)
        with pytest.raises(ValueError, match="for one-hot labels use categorical_crossentropy"):
            model.fit(x, np.eye(3)[y], verbose=0)
        with pytest.raises(ValueError, match=r"wants outputs \(N, classes\) and labels"):
            model.fit(x, np.zeros(3, int), verbose=0)
        model = per_place(places, None)
        model.compile("sgd", "sparse_categorical_crossentropy")
        with pytest.raises(ValueError, match="end the model with softmax"):
            model.fit(x, y, verbose=0)

    def test_outputs_without_places_are_left_alone(self):
        model = dense()
        model.fit(*points(), verbose=0)
        trainer = model.trainer()
        assert not trainer.moves_for_loss and not trainer.moves_for_metrics


class TestBadInput:
    def fit(self, x, y, model=None, **arguments):
        return (model or dense()).fit(x, y, verbose=0, **arguments)

    def test_before_compile(self):
        model = models.Sequential([layers.Dense(2, input_shape=(2,))])
        with pytest.raises(RuntimeError, match=r"call compile\(optimizer=..., loss=...\) before"):
            model.fit(*points())
        with pytest.raises(ValueError, match="needs a loss"):
            model.compile("sgd")

    @pytest.mark.parametrize(
        ("x", "y", "error", "message"),
        [
            (np.zeros((4, 3)), np.zeros(4), ValueError, r"shape \(N, 2\), got \(4, 3\)"),
            (np.zeros((4, 2, 2)), np.zeros(4), ValueError, r"shape \(N, 2\), got \(4, 2, 2\)"),
            (np.zeros((4, 2)), np.zeros(5), ValueError, "got 4 images and 5 labels"),
            (np.zeros((4, 2)), [0, 1, 2, 0], ValueError, "label 2 is out of range.* 0 ... 1"),
            (np.zeros((4, 2)), [0, 1, -1, 0], ValueError, "label -1 is out of range"),
            (np.zeros((4, 2)), [0, 0.5, 1, 0], TypeError, "whole class numbers, got 0.5"),
            (np.zeros((4, 2)), list("abcd"), TypeError, "labels have dtype"),
            ([[0, np.nan]] * 4, np.zeros(4), ValueError, "NaN or infinite, in 4 of 4 samples"),
            (np.zeros((0, 2)), np.zeros(0), ValueError, "images are empty"),
            (np.zeros((4, 2)), np.eye(2)[[0, 1, 0, 1]], ValueError, "categorical_crossentropy"),
            (np.zeros((4, 2)), None, ValueError, "need labels"),
        ],
    )
    def test_data(self, x, y, error, message):
        model = dense()
        before = model.get_weights()
        with pytest.raises(error, match=message) as caught:
            self.fit(x, y, model)
        assert "\n" not in str(caught.value)
        for weight, old in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(weight, old)

    def test_a_label_out_of_range_deep_in_the_data_is_found_before_training(self):
        x, y = points(100)
        y[97] = 7
        model = dense()
        before = model.get_weights()[0]
        with pytest.raises(ValueError, match="label 7 is out of range"):
            self.fit(x, y, model, shuffle=False)
        np.testing.assert_array_equal(model.get_weights()[0], before)

    def test_validation_data_are_checked_before_training(self):
        x, y = points()
        for bad in ((x, y + 1), (x[:, :1], y), (x, None)):
            model = dense()
            before = model.get_weights()[0]
            with pytest.raises(ValueError):
                self.fit(x, y, model, validation_data=bad)
            np.testing.assert_array_equal(model.get_weights()[0], before)

    def test_wrong_number_of_outputs(self):
        with pytest.raises(ValueError, match=r"outputs \(32, 1\) and targets \(32, 2\)"):
            self.fit(points()[0], np.zeros((64, 2)), dense(layers.Dense(1), loss="mse"))
        images = np.zeros((4, 8, 8, 1))
        model = models.Sequential([layers.Conv2D(3, 3, input_shape=(8, 8, 1))])
        model.compile("sgd", "sparse_categorical_crossentropy")
        with pytest.raises(ValueError, match=r"wants outputs \(N, classes\) and labels \(N,\)"):
            self.fit(images, np.zeros(4, int), model)

    def test_logits_where_probabilities_are_wanted(self):
        with pytest.raises(ValueError, match="end the model with softmax, or use from_logits"):
            self.fit(*points(), dense(layers.Dense(2)))
        with pytest.raises(ValueError, match="end the model with sigmoid"):
            model = dense(layers.Dense(1, "exponential"), loss="binary_crossentropy")
            self.fit(*points(), model)

    def test_batch_of_one_with_batch_norm(self):
        model = models.Sequential(
            [
                layers.Dense(4, input_shape=(2,)),
                layers.BatchNormalization(),
                layers.Dense(2, activation="softmax"),
            ]
        )
        model.compile("sgd", "sparse_categorical_crossentropy")
        before = model.get_weights()[0]
        message = "65 images in batches of 64 end in a batch of one, and batch_normalization needs"
        with pytest.raises(ValueError, match=message):
            self.fit(*points(65), model, batch_size=64)
        np.testing.assert_array_equal(model.get_weights()[0], before)
        self.fit(*points(65), model, batch_size=32 + 1)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                {"loss": "sparse_categorical_crosentropy"},
                "did you mean 'sparse_categorical_crossentropy'",
            ),
            ({"metrics": ["acuracy"]}, "did you mean 'accuracy'"),
        ],
    )
    def test_unknown_names(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            dense(**arguments)
