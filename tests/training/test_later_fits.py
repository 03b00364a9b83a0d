"""A fit after another: the length of its run, weights that are trained now, penalties that are its own."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from pyconvopt import callbacks, data, layers, metrics, models, regularizers, schedules
from pyconvopt.nn import ScheduledDropout
from pyconvopt.training import Trainer

rng = np.random.default_rng(0)
X = rng.random((40, 4, 4, 1)).astype(np.float32)
Y = rng.integers(0, 3, 40)


def compiled(schedule=None, **options):
    torch.manual_seed(0)
    model = models.Sequential(
        [
            layers.Flatten(input_shape=(4, 4, 1)),
            layers.ScheduledDropout(schedules.Cosine(0.5, 1).over_run()),
            layers.Dense(3, activation="softmax"),
        ]
    )
    loss = "sparse_categorical_crossentropy"
    model.compile("sgd", loss, ["accuracy"], schedule=schedule, **options)
    return model


def falling():
    return schedules.Cosine(0.1, 1).over_run()


class StopAt(callbacks.Callback):
    """Breaks a run off, as an interrupt does."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if self.trainer.step_number == self.step:
            raise KeyboardInterrupt


def same_weights(one, other):
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    return all(np.array_equal(*pair) for pair in pairs)


@pytest.mark.parametrize("step", [7, 10])
def test_taken_up_by_the_same_trainer(tmp_path, step):
    """A run that is interrupted in a notebook, and begun again there."""
    options = {"batch_size": 8, "epochs": 3, "seed": 1, "verbose": 0}
    penalty = {"*.weight": regularizers.L2(schedules.Cosine(0.1, 1).over_run())}
    whole, broken = (compiled(falling(), regularizers=penalty) for _ in range(2))
    whole.fit(X, Y, **options)
    with pytest.raises(KeyboardInterrupt):
        broken.fit(X, Y, checkpoint=tmp_path, callbacks=[StopAt(step)], **options)
    broken.fit(X, Y, checkpoint=tmp_path, **options)
    assert same_weights(whole, broken)
    assert broken.trainer().step_number == 15


def test_validation_data_go_on_where_they_were(tmp_path):
    """Some batches of a shuffled loader are other ones in each epoch."""

    def held_out():
        return data.ArrayLoader(X, Y, 8, shuffle=True, seed=3)

    options = {"batch_size": 8, "epochs": 4, "seed": 1, "verbose": 0, "validation_steps": 1}
    wanted = compiled().fit(X, Y, validation_data=held_out(), **options)
    with pytest.raises(KeyboardInterrupt):
        compiled().fit(
            X, Y, validation_data=held_out(), checkpoint=tmp_path, callbacks=[StopAt(12)], **options
        )
    found = compiled().fit(X, Y, validation_data=held_out(), checkpoint=tmp_path, **options)
    assert found.history["val_loss"] == wanted.history["val_loss"][-len(found.epoch) :]


def test_validation_data_of_a_generator_have_no_place(tmp_path):
    batches = ((X[:8], Y[:8]) for _ in range(9))
    with pytest.warns(UserWarning, match="does not keep the place in validation data"):
        compiled().fit(
            X, Y, verbose=0, validation_data=batches, validation_steps=1, checkpoint=tmp_path
        )


def test_more_epochs_of_a_run_that_has_ended(tmp_path):
    options = {"batch_size": 8, "seed": 1, "verbose": 0, "checkpoint": tmp_path}
    model, anew = compiled(falling()), compiled(falling())
    model.fit(X, Y, epochs=3, **options)
    other = copy.deepcopy(model)
    other.fit(X, Y, epochs=6, **options)
    for file in tmp_path.iterdir():
        file.unlink()
    model = compiled(falling())
    model.fit(X, Y, epochs=3, **options)
    rates = anew.fit(X, Y, epochs=6, **options).history["learning_rate"]
    assert same_weights(other, anew) and rates[-1] < 1e-3


@pytest.mark.parametrize(("size", "epochs", "total"), [(8, 2, 20), (14, 2, 16), (40, 5, 15)])
def test_a_run_counts_from_where_it_begins(size, epochs, total):
    model = compiled(falling())
    model.fit(X, Y, batch_size=8, epochs=2, verbose=0)
    model.fit(X, Y, batch_size=size, epochs=epochs, verbose=0)
    trainer = model.trainer()
    assert trainer.run_length[1] == trainer.step_number == total
    assert trainer.rate_at(total - 1) > 0
    dropout = next(each for each in model.modules() if isinstance(each, ScheduledDropout))
    assert int(dropout.step) == total and dropout.probability() == pytest.approx(0, abs=1e-6)


def test_a_run_after_one_that_stopped_inside_an_epoch():
    model = compiled(falling())
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=[StopAt(3)])
    model.fit(X, Y, batch_size=8, epochs=2, verbose=0)
    assert model.trainer().run_length == (5, 13) and model.trainer().step_number == 13


@pytest.mark.parametrize("initial", [3, 5])
def test_a_run_without_epochs(initial):
    history = compiled(falling()).fit(X, Y, epochs=3, initial_epoch=initial, verbose=0)
    assert history.epoch == []


class TestWeightsThatAreTrainedNow:
    def test_those_that_were_frozen(self):
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        model[0].requires_grad_(False)
        data = torch.randn(8, 2), torch.zeros(8).long()
        trainer = Trainer(model, "sgd", learning_rate=0.5)
        before = model[0].weight.clone()
        trainer.fit(data, verbose=0)
        assert torch.equal(model[0].weight, before)
        model[0].requires_grad_(True)
        trainer.fit(data, verbose=0)
        assert not torch.equal(model[0].weight, before)

    def test_those_that_the_optimizer_lacks_are_named(self):
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        optimizer = torch.optim.SGD(model[1].parameters(), 0.1)
        with pytest.warns(UserWarning, match=r"does not hold 0\.weight and 1 more, which stay"):
            Trainer(model, optimizer).fit((torch.randn(8, 2), torch.zeros(8).long()), verbose=0)

    def test_none_any_more(self):
        model = compiled()
        model.fit(X, Y, verbose=0)
        model.trainable = False
        with pytest.raises(ValueError, match="the model has no weights to train"):
            model.fit(X, Y, verbose=0)


class TestPenaltiesOfATrainer:
    def test_they_count_before_a_fit_and_leave_the_model(self):
        data = torch.randn(8, 2), torch.zeros(8).long()
        model = nn.Linear(2, 2)
        plain = Trainer(model, "sgd").evaluate(data)["loss"]
        weighted = Trainer(model, "sgd", learning_rate=0.0, regularizers={"weight": "l2"})
        penalty = float(regularizers.L2()(model.weight))
        for _ in range(2):
            assert weighted.evaluate(data)["loss"] == pytest.approx(plain + penalty)
            weighted.fit(data, verbose=0)
        assert Trainer(model, "sgd").evaluate(data)["loss"] == pytest.approx(plain)

    def test_none_takes_one_of_the_model_away(self):
        model = nn.Linear(2, 2)
        regularizers.attach(model, {"weight": regularizers.L2(5.0)})
        data = torch.randn(8, 2), torch.zeros(8).long()
        without = Trainer(model, "sgd", regularizers={"weight": None}).evaluate(data)["loss"]
        assert without < Trainer(model, "sgd").evaluate(data)["loss"]

    def test_a_saved_model_evaluates_to_the_same(self, tmp_path):
        model = compiled(regularizers={"*.weight": regularizers.L2(3.0)})
        wanted = model.evaluate(X, Y, verbose=0)
        model.save(tmp_path / "model")
        assert models.load(tmp_path / "model").evaluate(X, Y, verbose=0) == wanted


def test_an_evaluation_within_an_epoch_leaves_its_means():
    class Asks(callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.evaluate(X[:8], Y[:8], verbose=0)

    options = {"batch_size": 8, "epochs": 2, "seed": 1, "verbose": 0}
    wanted = compiled().fit(X, Y, **options)
    assert compiled().fit(X, Y, callbacks=[Asks()], **options).history == wanted.history


def test_a_model_trained_on_a_generator_can_be_copied():
    def batches():
        while True:
            yield X[:8], Y[:8]

    model = compiled()
    model.fit(batches(), steps_per_epoch=3, verbose=0)
    assert same_weights(copy.deepcopy(model), model)


def test_hooks_get_logs():
    seen = []
    hooks = {
        name: lambda *arguments, name=name: seen.append((name, arguments[-1]))
        for name in ("on_train_begin", "on_epoch_begin", "on_test_begin")
    }
    model = compiled()
    every = callbacks.LambdaCallback(**hooks)
    model.fit(X, Y, verbose=0, validation_data=(X, Y), callbacks=[every])
    assert [name for name, logs in seen if logs == {}] == [*hooks]
    names = ("on_predict_begin", "on_predict_batch_begin", "on_predict_end")
    hooks = {name: lambda *arguments: seen.append(arguments[-1]) for name in names}
    model.predict(X[:4], callbacks=[callbacks.LambdaCallback(**hooks)])
    assert seen[-3:] == [{}, {}, {}]


@pytest.mark.parametrize("steps", [0, -2, 2.5])
def test_a_number_of_batches_is_whole(steps):
    with pytest.raises((ValueError, TypeError), match="validation_steps"):
        compiled().fit(X, Y, verbose=0, validation_data=(X, Y), validation_steps=steps)
    for ask in (compiled().evaluate, lambda x, y, **options: compiled().predict(x, **options)):
        with pytest.raises((ValueError, TypeError), match="steps"):
            ask(X, Y, verbose=0, steps=steps)


@pytest.mark.parametrize("name", ["loss", "val_loss", "learning_rate", "epoch", "val_mine"])
def test_names_of_metrics_that_are_taken(name):
    with pytest.raises(ValueError, match=f"would both be called '{name}'"):
        Trainer(
            nn.Linear(2, 2), metrics=[metrics.Accuracy(name="mine"), metrics.Accuracy(name=name)]
        )


def test_bfloat16_is_predicted_as_floats():
    found = compiled().to(torch.bfloat16).predict(X)
    assert found.dtype == np.float32 and found.shape == (40, 3)


def test_a_model_of_several_outputs_is_refused():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            return self.layer(x), x

    with pytest.raises(TypeError, match="the model must return one tensor, got tuple"):
        Trainer(Two()).fit((torch.randn(8, 2), torch.zeros(8).long()), verbose=0)


class TestLossesThatAreNoMeans:
    LOSSES = (
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0])),
        nn.CrossEntropyLoss(ignore_index=0),
        nn.CrossEntropyLoss(reduction="sum"),
    )
    DATA = torch.randn(8, 2), torch.tensor([0, 1] * 4)

    @pytest.mark.parametrize("loss", LOSSES)
    def test_weights_are_refused(self, loss):
        trainer = Trainer(nn.Linear(2, 2), "sgd", loss)
        trainer.fit(self.DATA, verbose=0)
        for options in ({"class_weight": {1: 2.0}}, {"sample_weight": np.ones(8)}):
            with pytest.raises(ValueError, match="a mean over the samples, which one with weight="):
                trainer.fit(self.DATA, verbose=0, **options)

    @pytest.mark.parametrize("loss", LOSSES)
    def test_accumulation_warns(self, loss):
        with pytest.warns(UserWarning, match="no mean over samples"):
            Trainer(nn.Linear(2, 2), "sgd", loss, accumulate=2).fit(self.DATA, verbose=0)

    @pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="none")])
    def test_means_are_weighted(self, loss):
        model = nn.Linear(2, 2)
        plain = Trainer(model, "sgd", loss).evaluate(self.DATA)["loss"]
        doubled = Trainer(model, "sgd", loss).evaluate((*self.DATA, torch.full((8,), 2.0)))["loss"]
        assert doubled == pytest.approx(2 * plain, rel=1e-5)
