"""EMA, SWA and Schedule-Free in training: which weights are seen when, and what they leave alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from pyconvopt import averaging, layers, models, optimizers
from pyconvopt.training import (
    CheckpointFolder,
    EarlyStopping,
    LambdaCallback,
    ModelCheckpoint,
    Trainer,
)

torch.manual_seed(7)
DATA = (torch.randn(60, 2, 6, 6), torch.randint(0, 3, (60,)))
HELD_OUT = (torch.randn(20, 2, 6, 6), torch.randint(0, 3, (20,)))


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


def train(callbacks, model=None, epochs=3, optimizer="adam", validation=HELD_OUT):
    """A run of five steps an epoch; the weights after each step, the trainer, the history."""
    model = model or network()
    path: list[list[torch.Tensor]] = []
    watch = LambdaCallback(on_train_batch_end=lambda batch, logs: path.append(weights_of(model)))
    trainer = Trainer(model, optimizer, "cross_entropy", callbacks=[watch, *callbacks])
    torch.manual_seed(11)
    history = trainer.fit(
        DATA, epochs=epochs, batch_size=12, validation=validation, seed=0, verbose=0
    )
    return path, trainer, history.history


def weights_of(model):
    return [p.detach().clone() for p in model.parameters()]


def ema_of(path, decay):
    average = [w.double() for w in path[0]]
    for weights in path[1:]:
        average = [decay * a + (1 - decay) * w for a, w in zip(average, weights, strict=True)]
    return average


def mean_of(path):
    return [torch.stack(each).double().mean(0) for each in zip(*path, strict=True)]


def assert_weights(model, expected):
    for w, value in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(w.detach(), value.float(), rtol=1e-5, atol=1e-6)


def test_ema_is_its_formula_at_the_end():
    path, trainer, _ = train([averaging.EMA(0.8)])
    assert len(path) == 15
    assert_weights(trainer.model, ema_of(path, 0.8))


@pytest.mark.parametrize("validation", [HELD_OUT, None])
@pytest.mark.parametrize("accumulate", [2, 3, 7])
def test_ema_is_of_steps_where_several_batches_make_one(accumulate, validation):
    model, path = network(), []
    average = averaging.EMA(0.8)
    optimizer = optimizers.get("adam", model)
    optimizer.register_step_post_hook(lambda *given: path.append(weights_of(model)))
    trainer = Trainer(model, optimizer, "cross_entropy", callbacks=average, accumulate=accumulate)
    torch.manual_seed(11)
    trainer.fit(DATA, epochs=3, batch_size=12, validation=validation, seed=0, verbose=0)
    assert len(path) == 3 * -(-5 // accumulate)  # the rest of an epoch is a step, too
    assert_weights(model, ema_of(path, 0.8))


@pytest.mark.parametrize("stop", [3, 4, 5, 8, 9, 10, 14])
def test_ema_of_accumulated_steps_taken_up_again_is_to_the_bit(tmp_path, stop):
    def run(folder, stop=None):
        def count(batch, logs):
            batches.append(batch)
            if len(batches) == stop:
                raise KeyboardInterrupt

        torch.manual_seed(11)
        model, batches = network(), []
        callbacks = [averaging.EMA(0.8), LambdaCallback(on_train_batch_begin=count)]
        trainer = Trainer(model, "adam", "cross_entropy", callbacks=callbacks, accumulate=2)
        options = {"batch_size": 12, "seed": 0, "verbose": 0, "checkpoint": folder, "every": 1}
        trainer.fit(DATA, epochs=3, **options)
        return weights_of(model)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop)
    wanted, got = run(tmp_path / "whole"), run(tmp_path / "cut")
    assert all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True))


def test_ema_with_warm_up():
    path, trainer, _ = train([averaging.EMA(0.5, warmup=True)])
    average = [w.double() for w in path[0]]
    for t, weights in enumerate(path[1:], 1):
        decay = min(0.5, (1 + t) / (10 + t))
        average = [decay * a + (1 - decay) * w for a, w in zip(average, weights, strict=True)]
    assert_weights(trainer.model, average)


@pytest.mark.parametrize(("start", "first"), [(0.5, 2), (1, 1), (1.0, 3), (0.0, 0)])
@pytest.mark.parametrize("validation", [HELD_OUT, None])
def test_swa_is_the_mean_of_the_last_epochs(start, first, validation):
    path, trainer, _ = train([averaging.SWA(start)], epochs=4, validation=validation)
    assert_weights(trainer.model, mean_of(path[4::5][first:]))


def test_applied_within_applied():
    model, average = nn.Linear(1, 1, bias=False), averaging.EMA(0.5)
    average.attach(model)
    for value in (1.0, 3.0):
        nn.init.constant_(model.weight, value)
        average.update()
    with average.applied():
        with average.applied():
            assert model.weight.item() == 2
        assert model.weight.item() == 2
    assert model.weight.item() == 3


@pytest.mark.parametrize("average", [averaging.EMA(0.5), averaging.SWA(0)])
def test_parameters_of_whole_numbers(average):
    model = nn.Linear(2, 2)
    model.table = nn.Parameter(torch.tensor([4, 8]), requires_grad=False)
    average.attach(model)
    for _ in range(3):
        average.update()
    with average.applied():
        assert model.table.tolist() == [4, 8]


def test_the_first_epoch_of_swa():
    # 0.28 * 25 is 7.000000000000001 in floating point.
    assert averaging.SWA(0.28).first_epoch(25) == 7
    assert averaging.SWA(0.07).first_epoch(100) == 7
    assert averaging.SWA(0.3).first_epoch(7) == 3
    assert averaging.SWA(np.int64(3)).first_epoch(10) == 3
    assert averaging.SWA(np.float32(0.5)).first_epoch(10) == 5
    assert averaging.EMA(batches=np.int64(3)).recent.maxlen == 3


@pytest.mark.parametrize("average", [averaging.EMA(0.8), averaging.SWA(0.0)])
def test_validation_sees_the_average(average):
    seen = []
    look = LambdaCallback(on_test_end=lambda logs: seen.append(weights_of(trainer.model)))
    # Before the average among the callbacks: it looks while the average is in the model.
    model = network()
    trainer = Trainer(model, "adam", "cross_entropy", callbacks=[look, average])
    torch.manual_seed(11)
    history = trainer.fit(
        DATA, epochs=3, batch_size=12, validation=HELD_OUT, seed=0, verbose=0
    ).history
    path, _, plain = train([])
    for epoch, weights in enumerate(seen):
        so_far = path[: 5 * (epoch + 1)]
        expected = (
            ema_of(so_far, 0.8) if average.__class__ is averaging.EMA else mean_of(so_far[4::5])
        )
        for w, value in zip(weights, expected, strict=True):
            torch.testing.assert_close(w, value.float(), rtol=1e-5, atol=1e-6)
    assert history["val_loss"][-1] == trainer.evaluate(HELD_OUT)["loss"]
    assert history["val_loss"] != plain["val_loss"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: averaging.EMA(0.8, at_end=False),
        lambda: averaging.SWA(0.0, at_end=False),
    ],
)
def test_training_goes_on_to_the_bit_as_without(make):
    plain, without, history = train([])
    path, trainer, averaged = train([make()])
    for a, b in zip(plain, path, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    for name, value in without.model.state_dict().items():
        assert torch.equal(value, trainer.model.state_dict()[name]), name
    assert history["loss"] == averaged["loss"]
    assert not trainer.model._forward_pre_hooks


def test_not_asked_for():
    path, trainer, history = train([averaging.EMA(0.8, in_validation=False)])
    assert history["val_loss"] == train([])[2]["val_loss"]
    assert_weights(trainer.model, ema_of(path, 0.8))


def test_statistics_are_of_the_images_not_of_their_views():
    def trained(first, last):
        torch.manual_seed(0)
        conv, norm = layers.Conv2D(3, 3), layers.BatchNormalization(momentum=0.9)
        rest = [layers.Activation("relu"), layers.Flatten(), layers.Dense(3)]
        model = models.Sequential([layers.Input((6, 6, 2)), *first, conv, norm, *rest, *last])
        model.compile("adam", "mse")
        x, y = np.moveaxis(DATA[0].numpy(), 1, -1), np.eye(3, dtype=np.float32)[DATA[1].numpy()]
        model.fit(x, y, batch_size=12, epochs=1, callbacks=[averaging.EMA(0.7)], seed=0, verbose=0)
        return norm

    alone = trained([], [])
    views = trained([layers.Views(shift=1)], [layers.MeanOfViews(10)])
    assert torch.equal(alone.running_mean, views.running_mean)
    assert torch.equal(alone.running_var, views.running_var)


@pytest.mark.parametrize("optimizer", ["sam", torch.optim.LBFGS, "adam"])
def test_a_batch_that_a_step_goes_over_again_is_kept_once(optimizer):
    kept = []
    look = LambdaCallback(on_epoch_end=lambda epoch, logs: kept.extend(average.recent))
    average = averaging.EMA(0.8)
    train([average, look], epochs=1, optimizer=optimizer, validation=None)
    assert [len(inputs[0]) for inputs, _ in kept] == [12] * 5
    assert len({inputs[0].sum().item() for inputs, _ in kept}) == 5


def test_a_batch_is_kept_once_in_a_loop_of_ones_own():
    model, average = network(), averaging.EMA(0.8)
    average.attach(model)
    optimizer = optimizers.SAM(model.parameters(), lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(DATA[0]), DATA[1])
        loss.backward()
        return loss

    for step in range(1, 3):
        optimizer.step(closure)
        assert len(average.recent) == step


@pytest.mark.parametrize("name", ["schedule_free_sgd", "schedule_free_adamw"])
def test_sam_around_schedule_free_ends_with_the_average(name):
    pytest.importorskip("pytorch_optimizer", reason="pytorch-optimizer is optional")
    spec = {"name": "sam", "config": {"base": name, "rho": 0.01}}
    path, trainer, history = train([], optimizer=spec)
    ended = weights_of(trainer.model)
    assert not torch.equal(ended[0], path[-1][0])
    assert history["val_loss"][-1] == trainer.evaluate(HELD_OUT)["loss"]
    trainer.optimizer.train()  # the average again, from which the trained weights are worked out
    assert_weights(trainer.model, [w.double() for w in path[-1]])


def test_sequential_models_and_a_second_fit():
    torch.manual_seed(0)
    model = models.Sequential(
        [
            layers.Conv2D(3, 3, input_shape=(6, 6, 2)),
            layers.BatchNormalization(momentum=0.9),
            layers.Activation("relu"),
            layers.MaxPooling2D(),
            layers.Dropout(0.3),
            layers.Flatten(),
            layers.Dense(3, "softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    x = np.moveaxis(DATA[0].numpy(), 1, -1)
    path = []
    watch = LambdaCallback(on_train_batch_end=lambda batch, logs: path.append(weights_of(model)))
    for _ in range(2):
        path.clear()
        history = model.fit(
            x,
            DATA[1].numpy(),
            batch_size=12,
            epochs=2,
            validation_data=(x, DATA[1].numpy()),
            callbacks=[watch, averaging.EMA(0.7)],
            verbose=0,
        )
        assert_weights(model, ema_of(path, 0.7))
        assert history.history["val_loss"][-1] == model.evaluate(x, DATA[1].numpy(), verbose=0)


def test_an_average_goes_on_from_its_state_to_the_bit():
    """As after a kill: another model and another average, both from what was saved."""
    batches = [torch.randn(8, 2, 6, 6) for _ in range(9)]

    def go_on(model, average, optimizer, part):
        for x in part:
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            average.update()

    def begin():
        model = network()
        model[3].p = 0.0
        average = averaging.EMA(0.8, batches=6)
        average.attach(model)
        return model, average, torch.optim.SGD(model.parameters(), 0.1)

    whole, average, optimizer = begin()
    go_on(whole, average, optimizer, batches[:5])
    saved = copy.deepcopy((whole.state_dict(), average.state_dict()))
    go_on(whole, average, optimizer, batches[5:7])
    taken_up, other, its_optimizer = begin()
    taken_up.load_state_dict(saved[0])
    for _ in range(2):  # a second time changes nothing
        other.load_state_dict(saved[1])
    go_on(taken_up, other, its_optimizer, batches[5:7])
    with average.applied(), other.applied():
        for name, value in whole.state_dict().items():
            assert torch.equal(value, taken_up.state_dict()[name]), name


def test_a_finished_run_taken_up_can_still_be_averaged():
    model, average = network(), averaging.EMA(0.8)
    average.attach(model)
    model(DATA[0])
    average.update()
    again, other = network(), averaging.EMA(0.8)
    other.attach(again)
    other.load_state_dict(average.state_dict())
    with average.applied(), other.applied():
        assert torch.equal(model[1].running_mean, again[1].running_mean)
        assert not torch.equal(model[1].running_mean, torch.zeros(4))


class TestScheduleFree:
    @staticmethod
    def optimizer(parameters):
        pytest.importorskip("pytorch_optimizer", reason="pytorch-optimizer is optional")
        return optimizers.get("schedule_free_adamw", parameters, lr=0.01)

    def test_validation_and_the_end_have_the_average(self):
        pytest.importorskip("pytorch_optimizer", reason="pytorch-optimizer is optional")
        plain, without, _ = train([], optimizer=self.optimizer)
        path, trainer, history = train([averaging.ScheduleFree()], optimizer=self.optimizer)
        for a, b in zip(plain, path, strict=True):  # training is not disturbed
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        without.optimizer.eval()
        assert_weights(trainer.model, [w.double() for w in weights_of(without.model)])
        assert any(
            not torch.equal(a, b) for a, b in zip(path[-1], weights_of(trainer.model), strict=True)
        )
        assert history["val_loss"][-1] == trainer.evaluate(HELD_OUT)["loss"]
        trainer.fit(DATA, verbose=0)  # goes on from the trained weights
        assert not trainer.optimizer.param_groups[0]["train_mode"]

    def test_another_optimizer_is_refused(self):
        with pytest.raises(TypeError, match=r"needs an optimizer that keeps an average.*got Adam"):
            train([averaging.ScheduleFree()])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: averaging.EMA(1.5), "decay must lie between 0 and 1, got 1.5"),
        (lambda: averaging.EMA(batches=0), "batches must be a whole number >= 1, got 0"),
        (lambda: averaging.SWA(1.5), "start must be a share between 0 and 1"),
        (lambda: averaging.SWA(-1), "start must be a share between 0 and 1"),
        (lambda: averaging.SWA(np.float32(1.5)), "start must be a share between 0 and 1"),
        (lambda: averaging.SWA(float("nan")), "start must be a share between 0 and 1"),
        (lambda: train([averaging.SWA(5)]), "SWA begins at epoch 5 of a run of 3 epochs"),
        (lambda: train([averaging.EMA(), averaging.SWA()]), "EMA and SWA would both put"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_use_before_attach():
    with pytest.raises(RuntimeError, match="there is no average yet"), averaging.EMA().applied():
        pass
    with pytest.raises(RuntimeError, match="before attach"):
        averaging.EMA().update()


def test_an_error_in_validation_leaves_the_trained_weights():
    model = network()

    def fail(logs=None):
        raise KeyboardInterrupt

    average = averaging.EMA(0.5, at_end=False)
    path: list = []
    watch = LambdaCallback(on_train_batch_end=lambda batch, logs: path.append(weights_of(model)))
    trainer = Trainer(model, "adam", "cross_entropy", callbacks=[watch, average])
    fails = LambdaCallback(on_test_begin=fail)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(DATA, batch_size=12, validation=HELD_OUT, callbacks=[fails], verbose=0)
    assert all(torch.equal(a, b) for a, b in zip(path[-1], weights_of(model), strict=True))


class TestTheBestWeights:
    """They are those whose number was the best: an average that validation saw, its statistics too."""

    def run(self, callbacks, optimizer="adam", stumbles=False, **options):
        """The trainer, and the true losses of a run whose second epoch is made to look best."""
        seen = []

        def disguise(epoch, logs):
            seen.append(logs["val_loss"])
            logs["val_loss"] = [2.0, 1.0, 3.0, 4.0][epoch]
            if stumbles and epoch == 2:
                raise RuntimeError("stumbled")

        watch = LambdaCallback(on_epoch_end=disguise)
        trainer = Trainer(network(), optimizer, "cross_entropy")
        torch.manual_seed(11)
        trainer.fit(
            DATA,
            epochs=4,
            batch_size=12,
            validation=HELD_OUT,
            seed=0,
            verbose=0,
            callbacks=[watch, *callbacks],
            **options,
        )
        return trainer, seen

    @pytest.mark.parametrize("first", [True, False])
    @pytest.mark.parametrize(
        "make",
        [
            lambda: [averaging.EMA(0.8)],
            lambda: [averaging.EMA(0.8, at_end=False)],
            lambda: [averaging.EMA(0.8, in_validation=False)],
            lambda: [averaging.SWA(0.0)],
            list,
        ],
    )
    def test_come_back_and_are_saved(self, tmp_path, make, first):
        load_model = pytest.importorskip("safetensors.torch").load_model
        path = tmp_path / "best.safetensors"
        keep = [
            EarlyStopping(patience=9, restore_best_weights=True),
            ModelCheckpoint(path, save_best_only=True),
        ]
        trainer, seen = self.run([*make(), *keep] if first else [*keep, *make()])
        assert trainer.evaluate(HELD_OUT)["loss"] == seen[1]
        load_model(trainer.model, path)
        assert trainer.evaluate(HELD_OUT)["loss"] == seen[1]

    def test_of_schedule_free(self):
        pytest.importorskip("pytorch_optimizer", reason="pytorch-optimizer is optional")
        keep = EarlyStopping(patience=9, restore_best_weights=True)
        trainer, seen = self.run([keep], TestScheduleFree.optimizer)
        assert trainer.evaluate(HELD_OUT)["loss"] == seen[1]

    def test_of_a_number_of_training_are_those_trained(self):
        keep = EarlyStopping("loss", patience=9, restore_best_weights=True, mode="max")
        path: list = []
        watch = LambdaCallback(
            on_epoch_end=lambda epoch, logs: path.append(weights_of(trainer.model))
        )
        trainer = Trainer(network(), callbacks=[keep, averaging.EMA(0.8), watch])
        history = trainer.fit(DATA, 3, 12, HELD_OUT, seed=0, verbose=0).history["loss"]
        assert_weights(trainer.model, path[history.index(max(history))])

    def test_training_and_a_run_taken_up_again_are_to_the_bit(self, tmp_path):
        pytest.importorskip("safetensors")

        def callbacks():
            return [averaging.EMA(0.8), EarlyStopping(patience=9, restore_best_weights=True)]

        wanted, _ = self.run(callbacks(), checkpoint=tmp_path / "whole")
        with pytest.raises(RuntimeError, match="stumbled"):
            self.run(callbacks(), stumbles=True, checkpoint=tmp_path / "broken")
        got, _ = self.run(callbacks(), checkpoint=tmp_path / "broken")
        plain, _ = self.run([], checkpoint=tmp_path / "plain")
        for name, value in wanted.model.state_dict().items():
            assert torch.equal(value, got.model.state_dict()[name]), name
        last = CheckpointFolder(tmp_path / "whole").latest()["model"]
        for name, value in plain.model.state_dict().items():
            assert torch.equal(value, last[name]), name
