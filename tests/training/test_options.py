"""What a fit can be told beyond data and epochs: weights, updates, lengths, metrics."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from pyconvopt import layers, losses, metrics, models
from pyconvopt.data.loader import as_batches, shuffled
from pyconvopt.training import LambdaCallback, LearningRateScheduler, Trainer, checks
from pyconvopt.training.weighting import class_weights, sample_losses
from tests.small_models import dense, points, sgd

RATE = 0.05


def flat(model) -> np.ndarray:
    return np.concatenate([each.ravel() for each in model.get_weights()])


def twins(**compiled):
    first, second = dense(optimizer=sgd, **compiled), dense(optimizer=sgd, **compiled)
    second.set_weights(first.get_weights())
    return first, second


class TestWeights:
    @pytest.mark.parametrize("name", list(losses.TABLE))
    def test_the_mean_of_the_samples_losses_is_the_loss(self, name):
        loss = losses.get(name)
        outputs = torch.softmax(torch.randn(7, 3), dim=1).requires_grad_()
        targets = torch.arange(7) % 3 if loss.integer_targets else torch.eye(3)[torch.arange(7) % 3]
        each = sample_losses(loss, outputs, targets, False)
        whole = loss(outputs, targets)
        torch.testing.assert_close(each.mean(), whole)
        torch.testing.assert_close(
            *(torch.autograd.grad(value, outputs)[0] for value in (each.mean(), whole))
        )

    @pytest.mark.parametrize(
        "given",
        [
            {"class_weight": {0: 0.5, 1: 3.0}},
            {"class_weight": {1: 2.0}},
            {"sample_weight": np.linspace(0, 2, 64)},
        ],
    )
    @pytest.mark.parametrize("one_hot", [False, True])
    def test_as_keras_weighs(self, given, one_hot):
        keras = pytest.importorskip("keras", reason="parity needs Keras 3")
        x, y = points()
        y = np.eye(2, dtype=np.float32)[y] if one_hot else y
        loss = "categorical_crossentropy" if one_hot else "sparse_categorical_crossentropy"
        mine = dense(optimizer=sgd, loss=loss)
        model = keras.Sequential(
            [
                keras.Input((2,)),
                keras.layers.Dense(8, "tanh"),
                keras.layers.Dense(2, activation="softmax"),
            ]
        )
        model.set_weights(mine.get_weights())
        model.compile(keras.optimizers.SGD(RATE), loss, metrics=["accuracy"])
        common = {"epochs": 3, "batch_size": 16, "shuffle": False, "verbose": 0, **given}
        held_out = (*[each[:10] for each in (x, y)], np.linspace(1, 3, 10))
        wanted = model.fit(x, y, validation_data=held_out, **common)
        got = mine.fit(x, y, validation_data=held_out, **common)
        for weight, other in zip(mine.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_allclose(weight, other, rtol=1e-4, atol=1e-5)
        for name, values in wanted.history.items():
            assert got.history[name] == pytest.approx(values, rel=1e-4), name

    def test_both_multiply_and_a_split_takes_its_share(self):
        x, y = points()
        first, second = twins()
        weight = np.where(y == 1, 2.0, 1.0) * np.linspace(0, 1, 64)
        common = {"epochs": 2, "shuffle": False, "verbose": 0, "validation_split": 0.25}
        one = first.fit(x, y, class_weight={1: 2}, sample_weight=np.linspace(0, 1, 64), **common)
        two = second.fit(x, y, sample_weight=weight, **common)
        np.testing.assert_allclose(flat(first), flat(second), rtol=1e-6)
        assert one.history["val_loss"] != two.history["val_loss"]  # class weights: training alone

    @pytest.mark.parametrize("one_hot", [False, True])
    def test_balanced_classes(self, one_hot):
        x, y = points()
        y = np.where(y == 1, 2, 0)  # no sample of class 1
        y[:5] = 0
        counts = {label: int((y == label).sum()) for label in (0, 2)}
        wanted = {label: 64 / (2 * count) for label, count in counts.items()}
        labels = np.eye(3, dtype=np.float32)[y] if one_hot else y
        loss = "categorical_crossentropy" if one_hot else "sparse_categorical_crossentropy"
        first, second = twins(loss=loss, classes=3)
        first.fit(x, labels, verbose=0, seed=1, class_weight="balanced")
        second.fit(x, labels, verbose=0, seed=1, class_weight=wanted)
        np.testing.assert_array_equal(flat(first), flat(second))

    def test_balanced_counts_labels_that_lie_together(self):
        x, y = map(torch.from_numpy, points())
        y = (torch.arange(64) % 4 == 0).long()

        class WithTargets(Dataset):
            targets = y.tolist()

            def __len__(self):
                return 64

            def __getitem__(self, index):
                return x[index], y[index]

        wanted = class_weights("balanced", as_batches((x, y))).table
        whole = TensorDataset(x, y, torch.ones(64))
        for data in (whole, WithTargets(), Subset(whole, range(64)), DataLoader(whole, 8)):
            assert torch.equal(class_weights("balanced", as_batches(data)).table, wanted)
        some = as_batches(Subset(WithTargets(), range(1, 5)))
        of_some = class_weights("balanced", as_batches((x[1:5], y[1:5])))
        assert torch.equal(class_weights("balanced", some).table, of_some.table)

    def test_a_loader_may_bring_weights(self):
        x, y = points()
        weight = np.linspace(0, 2, 64).astype(np.float32)
        first, second = twins()
        dataset = TensorDataset(*map(torch.from_numpy, (x, y, weight)))
        first.fit(DataLoader(dataset, 16), epochs=2, verbose=0)
        second.fit(x, y, sample_weight=weight, batch_size=16, epochs=2, shuffle=False, verbose=0)
        np.testing.assert_array_equal(flat(first), flat(second))

    @pytest.mark.parametrize("places", [(3, 3), (4, 5), (3,), (5,), (1,)])
    @pytest.mark.parametrize("kind", ["sparse", "one_hot", "binary"])
    @pytest.mark.parametrize("class_weight", [{0: 0.5, 1: 3.0}, "balanced"])
    def test_classes_of_pixels_and_steps(self, places, kind, class_weight):
        generator = np.random.default_rng(4)
        x = generator.normal(size=(3, *places, 2)).astype(np.float32)
        y = generator.integers(0, 2, (3, *places))
        y.flat[:2] = 0, 1
        layer = layers.Conv2D if len(places) == 2 else layers.Conv1D
        outputs, ending = (1, "sigmoid") if kind == "binary" else (3, "softmax")
        model = models.Sequential([layer(outputs, 1, activation=ending, input_shape=x.shape[1:])])
        loss = {"sparse": "sparse_categorical", "one_hot": "categorical", "binary": "binary"}[kind]
        model.compile(sgd, f"{loss}_crossentropy")
        p = model.predict(x).astype(np.float64)
        p = np.concatenate([1 - p, p], -1) if kind == "binary" else p
        table = class_weight
        if class_weight == "balanced":
            table = {label: y.size / (2 * (y == label).sum()) for label in (0, 1)}
        each = -np.log(np.take_along_axis(p, y[..., None], -1))[..., 0]
        weight = np.where(y == 1, table[1], table[0])
        labels = np.eye(3, dtype=np.float32)[y] if kind == "one_hot" else y
        common = {"batch_size": 3, "class_weight": class_weight, "verbose": 0}
        before = model.get_weights()
        history = model.fit(x, labels, **common)
        assert history.history["loss"][0] == pytest.approx((weight * each).mean(), rel=1e-5)
        model.set_weights(before)
        history = model.fit(x, labels, sample_weight=[0.0, 1.0, 2.0], **common)
        of_samples = (weight * each).reshape(3, -1).mean(1)
        wanted = (of_samples[1] + 2 * of_samples[2]) / 3
        assert history.history["loss"][0] == pytest.approx(wanted, rel=1e-5)

    def test_a_loader_may_bring_weights_of_pixels(self):
        x, y, weight = torch.randn(3, 3, 3, 2), torch.randint(3, (3, 3, 3)), torch.rand(3, 3, 3)
        model = models.Sequential(
            [layers.Conv2D(3, 1, activation="softmax", input_shape=(3, 3, 2))]
        )
        model.compile(sgd, "sparse_categorical_crossentropy")
        p = torch.from_numpy(model.predict(x)).double()
        wanted = -(weight * p.gather(-1, y[..., None])[..., 0].log()).mean()
        data = DataLoader(TensorDataset(x, y, weight), 2)
        assert model.evaluate(data, verbose=0) == pytest.approx(wanted.item(), rel=1e-5)

    def test_classes_of_pixels_of_a_torch_model(self):
        x, y = torch.randn(3, 2, 3, 3), torch.randint(3, (3, 3, 3))
        model = nn.Conv2d(2, 3, 1)
        weight = torch.tensor([0.5, 1.0, 3.0])
        each = nn.functional.cross_entropy(model(x), y, reduction="none")
        history = Trainer(model, sgd).fit((x, y), class_weight={0: 0.5, 2: 3.0}, verbose=0)
        assert history.history["loss"][0] == pytest.approx((weight[y] * each).mean().item())
        for loss in (nn.CrossEntropyLoss(), lambda outputs, targets: outputs.mean()):
            with pytest.raises(ValueError, match="class_weight needs one label a sample where"):
                Trainer(model, sgd, loss).fit((x, y), class_weight={0: 2.0}, verbose=0)
        labels = torch.eye(3)[y].movedim(-1, 1)
        with pytest.raises(ValueError, match="'balanced' cannot tell the classes of labels of sha"):
            Trainer(model, sgd, "mse").fit((x, labels), class_weight="balanced", verbose=0)

    def test_a_function_of_ones_own_weighs_samples_alone(self):
        x, y = np.ones((3, 4, 2), np.float32), np.ones((3, 4, 1), np.float32)
        model = models.Sequential([layers.Conv1D(1, 1, input_shape=(4, 2))])
        model.compile(sgd, lambda outputs, targets: (outputs - targets).square())
        loss = ((model.predict(x).astype(np.float64) - y) ** 2).mean()
        got = model.evaluate(x, y, sample_weight=[1.0, 2.0, 6.0], verbose=0)
        assert got == pytest.approx(3 * loss, rel=1e-5)
        with pytest.raises(ValueError, match="class_weight needs one label a sample where"):
            model.fit(x, y, class_weight={1: 2.0}, verbose=0)

    @pytest.mark.parametrize("class_weight", [None, {1: 2.0}])
    def test_weights_in_a_column_are_one_a_sample(self, class_weight):
        x, y = points()
        weight = np.linspace(0, 2, 64).astype(np.float32)
        first, second = twins()
        for model, given in ((first, weight), (second, weight[:, None])):
            data = DataLoader(TensorDataset(*map(torch.from_numpy, (x, y, given))), 16)
            model.fit(data, verbose=0, class_weight=class_weight, validation_data=data)
        np.testing.assert_array_equal(flat(first), flat(second))
        for wrong in (weight[:, None].repeat(2, 1), weight[:, None].repeat(16, 1)):
            data = DataLoader(TensorDataset(*map(torch.from_numpy, (x, y, wrong))), 16)
            with pytest.raises(ValueError, match=r"one a sample, \(16,\), got shape \(16, "):
                dense().fit(data, verbose=0, class_weight=class_weight)
            with pytest.raises(ValueError, match=r"one a sample, \(16,\), got shape \(16, "):
                dense().evaluate(data, verbose=0)

    def test_refusals(self):
        x, y = points()
        for given, message in (
            (
                {"class_weight": {0.5: 1}},
                "class numbers to finite weights of 0 or more, got 0.5: 1",
            ),
            ({"class_weight": {}}, "class_weight is empty"),
            ({"class_weight": {0: float("inf")}}, "finite weights of 0 or more, got 0: inf"),
            ({"class_weight": {"a": 1}}, "must map class numbers"),
            ({"sample_weight": [1.0]}, r"one a sample, \(64,\), got shape \(1,\)"),
        ):
            with pytest.raises(ValueError, match=message):
                dense().fit(x, y, verbose=0, **given)
        with pytest.raises(TypeError, match=r"class_weight must be .* or 'balanced', got 'even'"):
            dense().fit(x, y, verbose=0, class_weight="even")
        with pytest.raises(ValueError, match="'balanced' counts the labels of arrays"):
            dense().fit(lambda: iter([(x, y)]), verbose=0, class_weight="balanced")
        with pytest.raises(ValueError, match="sample_weight goes with arrays"):
            data = DataLoader(TensorDataset(*map(torch.from_numpy, (x, y))))
            dense().fit(data, verbose=0, sample_weight=[1.0])


class TestUpdates:
    def trained(self, batch_size, **options):
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))
        trainer = Trainer(model, sgd, **options)
        trainer.fit(points(60), batch_size=batch_size, epochs=3, shuffle=False, verbose=0)
        return torch.cat([each.detach().flatten() for each in model.parameters()]), trainer

    def test_accumulated_batches_are_one_large_one(self):
        """60 samples in batches of 16 by twos: 32 and 28, as batches of 32 give them."""
        got, trainer = self.trained(16, accumulate=2)
        wanted, other = self.trained(32)
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
        assert trainer.step_number == other.step_number == 6
        # Batches of 8 by threes: 24, 24 and the last 12 alone.
        assert self.trained(8, accumulate=3)[1].step_number == 9

    @pytest.mark.parametrize("options", [{"clip_norm": 0.05}, {"clip_value": 0.01}])
    @pytest.mark.parametrize("accumulate", [1, 2])
    def test_clipping(self, options, accumulate):
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))
        start = torch.cat([each.detach().flatten() for each in model.parameters()])
        x, y = map(torch.from_numpy, points(60))
        nn.functional.cross_entropy(model(x), y).backward()
        gradient = torch.cat([each.grad.flatten() for each in model.parameters()])
        if "clip_norm" in options:
            assert gradient.norm() > 0.05
            gradient *= 0.05 / gradient.norm()
        else:
            gradient.clamp_(-0.01, 0.01)
        trainer = Trainer(model, sgd, accumulate=accumulate, **options)
        trainer.fit((x, y), batch_size=60 // accumulate, shuffle=False, verbose=0)
        got = torch.cat([each.detach().flatten() for each in model.parameters()])
        torch.testing.assert_close(got, start - RATE * gradient, rtol=1e-4, atol=1e-6)

    def test_refusals(self):
        for options, message in (
            ({"accumulate": 0}, "accumulate must be a whole number >= 1, got 0"),
            ({"clip_norm": 0.0}, "clip_norm must be more than 0, got 0.0"),
            ({"clip_value": -1}, "clip_value must be more than 0"),
        ):
            with pytest.raises(ValueError, match=message):
                Trainer(nn.Linear(2, 2), **options)


class TestLengths:
    def test_an_epoch_of_some_steps_goes_on_in_the_data(self):
        x, y = points(60)
        first, second = twins()
        common = {"batch_size": 10, "shuffle": False, "verbose": 0}
        history = first.fit(x, y, epochs=3, steps_per_epoch=4, **common)
        second.fit(x, y, epochs=2, **common)
        np.testing.assert_array_equal(flat(first), flat(second))
        assert history.params["steps"] == 4 and history.params["samples"] == 40

    def test_generators(self):
        x, y = points(60)

        def batches():
            for start in range(0, 60, 10):
                yield x[start : start + 10], y[start : start + 10]

        first, second = twins()
        third, _ = twins()
        third.set_weights(first.get_weights())
        first.fit(batches, epochs=2, verbose=0, validation_data=batches)

        def endless():
            while True:
                yield from batches()

        second.fit(endless(), epochs=4, steps_per_epoch=3, verbose=0)
        third.fit(x, y, epochs=2, batch_size=10, shuffle=False, verbose=0)
        np.testing.assert_array_equal(flat(first), flat(third))
        np.testing.assert_array_equal(flat(second), flat(third))
        with pytest.raises(ValueError, match="ended after 6 batches, 2 into an epoch of 4"):
            first.fit(batches(), epochs=2, steps_per_epoch=4, verbose=0)
        with pytest.raises(ValueError, match="no batch to evaluate on; a generator can be read"):
            first.fit(x, y, epochs=2, verbose=0, validation_data=batches())
        with pytest.raises(ValueError, match="a generator is read once: give a function"):
            first.fit(batches(), epochs=2, verbose=0)

    def test_validation_now_and_then(self):
        held_out = points(40, seed=1)
        for frequency, times in ((2, 2), ([1, 5], 2), (7, 0)):
            history = dense().fit(
                *points(), epochs=5, verbose=0, validation_data=held_out, validation_freq=frequency
            )
            assert len(history.history.get("val_loss", [])) == times
        model = dense(optimizer=sgd)
        history = model.fit(
            *points(),
            verbose=0,
            validation_data=held_out,
            validation_batch_size=8,
            validation_steps=2,
        )
        wanted = model.evaluate(*(each[:16] for each in held_out), verbose=0)[0]
        assert history.history["val_loss"][0] == pytest.approx(wanted)
        with pytest.raises(ValueError, match="validation_freq must be a whole number >= 1, got 0"):
            model.fit(*points(), verbose=0, validation_freq=0)

    def test_a_run_in_two_parts_is_one_run(self):
        first, second = twins()
        first.fit(*points(), epochs=4, seed=3, verbose=0)
        second.fit(*points(), epochs=2, seed=3, verbose=0)
        second.fit(*points(), epochs=4, initial_epoch=2, seed=3, verbose=0)
        np.testing.assert_array_equal(flat(first), flat(second))


class TestForms:
    """What people give, in the forms they give it."""

    def fit(self, data=None, trainer=None, **options):
        torch.manual_seed(3)
        trainer = trainer or Trainer(nn.Linear(2, 2), sgd)
        history = trainer.fit(data or points(), **{"verbose": 0, "seed": 3, **options})
        return trainer.model.weight.detach(), history.history

    @pytest.mark.parametrize(
        ("given", "plain"),
        [
            ({"seed": np.int64(3)}, {}),
            ({"batch_size": np.int64(32), "epochs": np.int64(1)}, {}),
            ({"validation": [*points(9)]}, {"validation": points(9)}),
            ({"callbacks": LearningRateScheduler(lambda epoch: np.float32(0.5))}, None),
            ({"callbacks": LearningRateScheduler(lambda epoch: torch.tensor(0.5))}, None),
        ],
    )
    def test_is_the_same(self, given, plain):
        if plain is None:
            plain = {"callbacks": [LearningRateScheduler(lambda epoch: 0.5)]}
        got, wanted = self.fit(**given), self.fit(**plain)
        assert torch.equal(got[0], wanted[0]) and got[1] == wanted[1]

    def test_one_metric_and_one_callback(self):
        made = Trainer(nn.Linear(2, 2), metrics="accuracy", callbacks=LambdaCallback())
        assert list(made.fit(points(), verbose=0).history) == ["loss", "accuracy"]
        assert list(made.evaluate(points(), callbacks=LambdaCallback())) == ["loss", "accuracy"]
        model = dense(metrics="accuracy")
        assert list(model.fit(*points(), verbose=0).history) == ["loss", "accuracy"]
        Trainer(nn.Linear(2, 2), metrics=metrics.get("accuracy"))

    @pytest.mark.parametrize("seed", [2**45, 2**63, 2**70, 1_700_000_000_000_000_001, -(2**62)])
    @pytest.mark.parametrize("dataset", [False, True])
    def test_any_seed(self, seed, dataset):
        x, y = map(torch.from_numpy, points())
        data = Subset(TensorDataset(x, y), range(64)) if dataset else (x, y)
        one, two = (self.fit(data, seed=seed)[0] for _ in range(2))
        assert torch.equal(one, two) and not torch.equal(one, self.fit(data, seed=seed + 1)[0])

    def test_small_seeds_keep_their_order(self):
        for seed, epoch in ((0, 0), (7, 3), (-1, 0), (2**43, 9)):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            wanted = torch.randperm(50, generator=generator)
            assert torch.equal(shuffled(50, seed, epoch), wanted)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"epochs": 2.5}, "epochs must be a whole number >= 0, got 2.5"),
            ({"epochs": -1}, "epochs must be a whole number >= 0, got -1"),
            ({"epochs": "3"}, "epochs must be a whole number >= 0, got '3'"),
            ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
            ({"batch_size": True}, "batch_size must be a whole number >= 1, got True"),
            (
                {"validation": (np.full((9, 2), np.nan), points(9)[1])},
                "the validation images hold 18 values that are NaN",
            ),
        ],
    )
    def test_refusals(self, given, message):
        with pytest.raises(ValueError, match=message):
            self.fit(**given)

    def test_nan_in_evaluation(self):
        with pytest.raises(ValueError, match="the images hold 18 values that are NaN"):
            Trainer(nn.Linear(2, 2)).evaluate((np.full((9, 2), np.nan), points(9)[1]))

    @pytest.mark.parametrize("validation", [False, True])
    @pytest.mark.parametrize(
        ("sample", "got"),
        [
            (lambda x, y: x, r"a Tensor of shape \(2, 2\)"),
            (lambda x, y: {"x": x, "y": y}, "a dict of x, y"),
            (lambda x, y: (x, y, y, y), "a list of 4"),
        ],
    )
    def test_batches_without_labels(self, sample, got, validation):
        data = DataLoader([sample(x, y) for x, y in zip(*points(8), strict=True)], 2)
        given = {"data": points(), "validation": data} if validation else {"data": data}
        with pytest.raises(TypeError, match=rf"must be \(x, y\) or .*, got {got}: training and"):
            self.fit(**given)

    def test_an_optimizer_of_other_weights(self):
        other, model = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2))
        with pytest.raises(ValueError, match="holds 2 parameters, none of which is the model's"):
            Trainer(model, torch.optim.SGD(other.parameters(), 0.1)).fit(points(), verbose=0)
        some = torch.optim.SGD([*model[1].parameters(), *other.parameters()], 0.1)
        Trainer(model, some).fit(points(), verbose=0)


class TestMetrics:
    def test_confusion_matrix_of_the_validation(self):
        x, y = points(40, seed=1)
        matrix = metrics.ConfusionMatrix()
        model = dense(metrics=["accuracy", metrics.TopKAccuracy(1), matrix])
        history = model.fit(*points(), epochs=2, verbose=0, validation_data=(x, y))
        said = model.predict(x).argmax(1)
        wanted = [[int(((y == i) & (said == j)).sum()) for j in (0, 1)] for i in (0, 1)]
        assert matrix.matrix.tolist() == wanted
        recall = [wanted[i][i] / sum(wanted[i]) for i in (0, 1)]
        assert history.history["val_balanced_accuracy"][-1] == pytest.approx(np.mean(recall))
        assert history.history["top_k_accuracy"] == history.history["accuracy"]

    @pytest.mark.parametrize("binary", [False, True])
    def test_torchmetrics(self, binary, tmp_path):
        torchmetrics = pytest.importorskip("torchmetrics", reason="tests any torchmetrics object")
        kind = "binary" if binary else "multiclass"
        options = {} if binary else {"num_classes": 2}
        auroc = torchmetrics.AUROC(task=kind, **options)
        if binary:
            model = dense(
                layers.Dense(1, "sigmoid"),
                loss="binary_crossentropy",
                metrics=["accuracy", torchmetrics.Accuracy(task=kind), auroc],
            )
        else:
            model = dense(metrics=["accuracy", torchmetrics.Accuracy(task=kind, **options), auroc])
        x, y = points(40, seed=1)
        name = "binary" if binary else "multiclass"
        history = model.fit(*points(), epochs=2, verbose=0, validation_data=(x, y)).history
        for split in ("", "val_"):
            assert history[f"{split}{name}_accuracy"] == pytest.approx(history[f"{split}accuracy"])
        score = model.predict(x)[:, -1]
        pairs = score[y == 1][:, None] - score[y == 0][None]
        assert history[f"val_{name}_auroc"][-1] == pytest.approx((pairs > 0).mean(), abs=1e-6)
        saved = model.trainer().metrics[-1].state_dict()
        wanted = model.trainer().metrics[-1].result()
        model.trainer().metrics[-1].reset()
        model.trainer().metrics[-1].load_state_dict(saved)
        assert model.trainer().metrics[-1].result() == wanted

    def test_more_than_one_number(self):
        torchmetrics = pytest.importorskip("torchmetrics")
        given = {"task": "multiclass", "num_classes": 2}
        recall = torchmetrics.Recall(**given, average=None)
        counts = torchmetrics.ConfusionMatrix(**given)
        pair = [torchmetrics.Accuracy(**given), torchmetrics.F1Score(**given)]
        model = dense(
            metrics=[
                "accuracy",
                recall,
                counts,
                torchmetrics.MetricCollection(pair, prefix="my_"),
                torchmetrics.MetricCollection({"F": torchmetrics.F1Score(**given)}),
            ]
        )
        x, y = points(40, seed=1)
        history = model.fit(*points(), epochs=2, verbose=0, validation_data=(x, y)).history
        said = model.predict(x).argmax(1)
        for label in (0, 1):
            wanted = (said[y == label] == label).mean()
            assert history[f"val_multiclass_recall_{label}"][-1] == pytest.approx(wanted)
        assert history["my_multiclass_accuracy"] == pytest.approx(history["accuracy"])
        assert history["F"] == history["my_multiclass_f1_score"]
        assert not any("confusion" in name for name in history)
        wanted = [[int(((y == i) & (said == j)).sum()) for j in (0, 1)] for i in (0, 1)]
        assert counts.compute().tolist() == wanted
        with pytest.raises(ValueError, match="multiclass_recall gives 2 numbers: multiclass_recal"):
            model.trainer().metrics[1].result()

    def test_torchmetrics_that_do_not_fit(self):
        torchmetrics = pytest.importorskip("torchmetrics")
        with pytest.raises(
            ValueError, match=r"MeanSquaredError refuses outputs of shape \(32, 2\) "
        ):
            dense(metrics=[torchmetrics.MeanSquaredError()]).fit(*points(), verbose=0)
        accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=2)
        twin = torchmetrics.Accuracy(task="multiclass", num_classes=2, average="macro")
        with pytest.raises(
            ValueError, match=r"name one of them, metrics.TorchMetric\(metric, name"
        ):
            dense(metrics=[accuracy, twin])
        model = dense(metrics=[accuracy, metrics.TorchMetric(twin, name="macro")])
        assert "macro" in model.fit(*points(), verbose=0).history


class TestWarnings:
    def test_two_masters_of_the_rate(self):
        trainer = Trainer(nn.Linear(2, 2), schedule=lambda step: 0.1)
        with pytest.warns(UserWarning, match="LearningRateScheduler has no effect"):
            callbacks = [LearningRateScheduler(lambda epoch: 0.1)]
            trainer.fit(points(), verbose=0, callbacks=callbacks)

    def fit(self, model, optimizer):
        Trainer(model, optimizer).fit(points(), verbose=0)

    def test_decay_of_norms(self):
        def decaying(**settings):
            return {"name": "adamw", "config": settings}

        def model():
            return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

        with pytest.warns(UserWarning, match=r"decay of 0.1 shrinks .* such as 1: spare them"):
            self.fit(model(), decaying(weight_decay=0.1))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.fit(model(), decaying(weight_decay=0.1, no_decay=["bias", "norm"]))
            self.fit(model(), decaying())
            self.fit(model(), lambda parameters: torch.optim.AdamW(parameters))  # its own: 0.01
            self.fit(nn.Sequential(nn.Linear(2, 2)), decaying(weight_decay=0.1))

    def test_more_threads_than_processors(self, monkeypatch):
        monkeypatch.setattr(checks, "processors", lambda: torch.get_num_threads())
        assert checks.too_many_threads() is None
        monkeypatch.setattr(checks, "processors", lambda: torch.get_num_threads() - 0.5)
        with pytest.warns(UserWarning, match="torch computes with . threads on"):
            self.fit(nn.Linear(2, 2), "sgd")

    def test_bfloat16_that_is_emulated(self, monkeypatch):
        assert checks.processors() >= 1
        monkeypatch.setattr(checks, "multiplies_bfloat16", lambda: False)
        with pytest.warns(UserWarning, match="the model is in bfloat16, which this processor only"):
            self.fit(nn.Linear(2, 2).bfloat16(), "sgd")
        with (
            pytest.warns(UserWarning, match="autocast to bfloat16, which this processor only"),
            torch.autocast("cpu", torch.bfloat16),
        ):
            self.fit(nn.Linear(2, 2), "sgd")
        monkeypatch.setattr(checks, "multiplies_bfloat16", lambda: True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.fit(nn.Linear(2, 2).bfloat16(), "sgd")

    def test_a_last_batch_of_one_image(self):
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
        x, y = torch.randn(9, 1, 4, 4), torch.arange(9) % 2
        with pytest.warns(UserWarning, match="9 images in batches of 4 end in a batch of one: b"):
            Trainer(model).fit((x, y), batch_size=4, verbose=0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Trainer(model).fit((x, y), batch_size=3, verbose=0)


def test_what_is_not_used_costs_nothing():
    """No hook, no copy of the weights at each step, no second pass over the gradients."""
    trainer = Trainer(nn.Linear(2, 2), sgd)
    taken = []
    record = LambdaCallback(on_epoch_end=lambda *_: taken.append(trainer.guard.good.step))
    trainer.fit(points(), batch_size=1, epochs=2, verbose=0, callbacks=[record])
    assert taken == [0, 0] and trainer.clip is None and trainer.accumulation is None
    assert not trainer.hooks.hooks("on_train_batch_end")
