"""Learning rates on their way to the optimiser: groups keep their ratios, nonsense is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pyconvopt import optimizers, schedules
from pyconvopt.training import (
    LambdaCallback,
    LearningRateMonitor,
    LearningRateScheduler,
    ReduceLROnPlateau,
    Trainer,
    find_lr,
)
from tests.small_models import points


def grouped(first: float = 0.1, second: float = 0.01):
    """A model, and SGD with a rate of its own for each of its parameters."""
    model = nn.Linear(2, 2)
    rates = zip(model.parameters(), (first, second), strict=True)
    return model, torch.optim.SGD([{"params": [each], "lr": rate} for each, rate in rates])


def rates_of(trainer: Trainer, callbacks=(), **options) -> list[list[float]]:
    seen = []
    groups = lambda *_: seen.append([each["lr"] for each in trainer.optimizer.param_groups])  # noqa: E731
    watch = LambdaCallback(on_train_batch_end=groups)
    trainer.fit(points(32), batch_size=16, verbose=0, callbacks=[*callbacks, watch], **options)
    return seen


class TestGroups:
    @pytest.mark.parametrize(
        "schedule", [schedules.Constant(0.1), schedules.Cosine(0.4, 4), lambda t: 0.4 / (t + 1)]
    )
    def test_keep_their_ratio_to_the_first(self, schedule):
        seen = rates_of(Trainer(*grouped(), schedule=schedule), epochs=2)
        assert seen == [pytest.approx([schedule(t), schedule(t) / 10]) for t in range(4)]
        if isinstance(schedule, schedules.Schedule):
            optimizer = grouped()[1]
            schedule.to_torch(optimizer)
            assert seen[0] == pytest.approx([each["lr"] for each in optimizer.param_groups])

    def test_in_a_second_fit_after_a_rate_of_0(self):
        trainer = Trainer(*grouped(), schedule=lambda t: 0.0 if t < 2 else 1.0)
        assert rates_of(trainer) == [[0, 0], [0, 0]]
        assert rates_of(trainer) == [pytest.approx([1.0, 0.1])] * 2

    def test_with_keras_callback(self):
        trainer = Trainer(*grouped())
        seen = rates_of(trainer, [LearningRateScheduler(lambda epoch, rate: rate / 2)], epochs=2)
        assert seen[::2] == [pytest.approx([0.05, 0.005]), pytest.approx([0.025, 0.0025])]

    def test_a_first_rate_of_0_has_no_ratio(self):
        assert rates_of(Trainer(*grouped(0.0, 0.5), schedule=0.3))[0] == [0.3, 0.3]


class TestRefusals:
    @pytest.mark.parametrize("rate", [-0.1, float("nan"), float("inf")])
    def test_of_rates(self, rate):
        with pytest.raises(ValueError, match=f"the schedule at step 0 gives {rate}: a learning"):
            Trainer(nn.Linear(2, 2), "sgd", schedule=lambda step: rate).fit(points(), verbose=0)
        callback = LearningRateScheduler(lambda epoch, before: rate)
        with pytest.raises(ValueError, match="LearningRateScheduler's schedule gives"):
            Trainer(nn.Linear(2, 2), "sgd").fit(points(), verbose=0, callbacks=[callback])
        with pytest.raises(ValueError, match="rate min_lr must be a number of 0 or more"):
            ReduceLROnPlateau(min_lr=rate)
        with pytest.raises(ValueError, match="rate learning_rate must be"):
            Trainer(nn.Linear(2, 2), learning_rate=rate)

    @pytest.mark.parametrize("name", ["sgd", "adam", "rmsprop", "muon", "sam"])
    def test_of_an_optimizers(self, name):
        with pytest.raises(ValueError, match=r"lr must be|[Ll]earning rate"):
            optimizers.get(name, nn.Linear(2, 2), lr=float("nan"))
        with pytest.raises(ValueError, match="rate lr must be a number of 0 or more, got inf"):
            optimizers.get(torch.optim.SGD, nn.Linear(2, 2), lr=float("inf"))


def test_a_range_test_sets_the_rate_in_place_of_the_schedule():
    ends = []
    for schedule in (None, 1e-9):
        torch.manual_seed(0)
        trainer = Trainer(nn.Linear(2, 2), "sgd", schedule=schedule)
        ends.append(find_lr(trainer, points(), steps=20, seed=0).losses)
    assert ends[0] == ends[1]


class TestHistory:
    def history(self, callbacks=(), **options) -> dict[str, list[float]]:
        trainer = Trainer(nn.Linear(2, 2), "sgd", **options)
        given = {"validation": points(seed=1), "callbacks": callbacks, "verbose": 0}
        return trainer.fit(points(32), batch_size=16, epochs=3, **given).history

    def test_holds_the_rate_of_a_schedule(self):
        seen: list[float] = []
        watch = LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs["learning_rate"]))
        found = self.history([watch], schedule=schedules.Exponential(0.1, 0.5))
        # Of two steps an epoch the second's.
        assert found["learning_rate"] == seen == pytest.approx([0.05, 0.0125, 0.003125])
        assert self.history(schedule=0.1)["learning_rate"] == [0.1] * 3

    def test_holds_it_once(self):
        again = self.history([LearningRateMonitor()], schedule=schedules.Exponential(0.1, 0.5))
        assert again["learning_rate"] == pytest.approx([0.05, 0.0125, 0.003125])
        callback = LearningRateScheduler(lambda epoch: 0.1 / (epoch + 1))
        assert self.history([callback])["learning_rate"] == pytest.approx([0.1, 0.05, 0.1 / 3])

    def test_not_that_of_an_optimiser_alone(self):
        assert set(self.history()) == {"loss", "val_loss"}
        assert set(self.history([LearningRateMonitor()])) == {"loss", "val_loss", "learning_rate"}
