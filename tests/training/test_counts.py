"""What counts the updates of a run: schedules of dropout, whatever an update takes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pyconvopt as pco
from pyconvopt import schedules
from pyconvopt.training import LambdaCallback, Trainer
from tests.small_models import points


def model_with(*arguments, **settings):
    dropout = pco.nn.ScheduledDropout(*arguments, **settings)
    return nn.Sequential(nn.Linear(2, 4), dropout, nn.Linear(4, 2)), dropout


@pytest.mark.parametrize(
    ("options", "updates"),
    [({}, 4), ({"optimizer": "sam"}, 4), ({"accumulate": 2}, 2), ({"accumulate": 3}, 2)],
    ids=["plain", "sam", "accumulated", "with a rest"],
)
def test_scheduled_dropout_follows_updates(options, updates):
    model, dropout = model_with(0.5, steps=10)
    Trainer(model, **options).fit(points(), batch_size=16, verbose=0)
    assert dropout.step == updates
    model.train()(torch.ones(3, 2))
    assert dropout.step == updates + 1  # outside a run it counts by itself


@pytest.mark.parametrize("error", [False, True])
def test_it_counts_by_itself_after_a_run(error):
    model, dropout = model_with(0.5, steps=10)

    def stumble(batch, logs):
        if error:
            raise RuntimeError("stumbled")

    trainer = Trainer(model, callbacks=[LambdaCallback(on_train_batch_end=stumble)])
    try:
        trainer.fit(points(), verbose=0)
    except RuntimeError:
        assert error
    assert dropout.counts_passes


class TestUnits:
    def seen(self, schedule, fits=1, **options) -> list[float]:
        model, dropout = model_with(schedule)
        found: list[float] = []
        note = LambdaCallback(on_train_batch_begin=lambda *_: found.append(dropout.probability()))
        trainer = Trainer(model, "sgd", callbacks=[note], **options)
        for _ in range(fits):
            trainer.fit(points(), batch_size=16, epochs=2, verbose=0)
        return found

    def test_shares_of_the_run_and_epochs(self):
        rising = schedules.Polynomial(0.0, 1, end=0.8)
        assert self.seen(rising.over_run()) == pytest.approx([t / 10 for t in range(8)])
        # One epoch of two, then its last value holds.
        wanted = [0.0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.8]
        assert self.seen(rising.per_epoch()) == pytest.approx(wanted)
        by_twos = [0.0, 0.0, 0.2, 0.2, 0.4, 0.4, 0.6, 0.6]
        assert self.seen(rising.over_run(), accumulate=2) == pytest.approx(by_twos)
        # A second fit goes on, and its end is the end of the run.
        assert self.seen(rising.over_run(), fits=2)[8:] == pytest.approx(
            [0.8 * t / 16 for t in range(8, 16)]
        )

    def test_what_was_counted_before_the_run_is_no_part_of_it(self):
        model, dropout = model_with(schedules.Polynomial(0.0, 1, end=0.8).over_run())
        dropout.step.fill_(8)
        Trainer(model, "sgd").fit(points(), batch_size=16, epochs=2, verbose=0)
        assert dropout.step == 16 and dropout.probability() == pytest.approx(0.8)

    def test_without_a_run(self):
        _, dropout = model_with(schedules.Constant(0.1).over_run())
        with pytest.raises(RuntimeError, match=r"resolve\(steps_per_epoch, total_steps\)"):
            dropout(torch.ones(2))
