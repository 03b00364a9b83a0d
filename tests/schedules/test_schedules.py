"""Units, composition, names, errors, torch schedulers that resume, the Trainer."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from pyconvopt import schedules
from pyconvopt.schedules import Constant, Cosine, Exponential, MultiStep, PerEpoch, Redwood
from pyconvopt.training import LambdaCallback, Trainer

EVERY = [
    Constant(0.1),
    Exponential(0.1, 0.9),
    Redwood(0.1, 0.3),
    schedules.InverseTime(0.1, 7, 0.5, staircase=True),
    schedules.Step(0.1, 3),
    MultiStep(0.1, (3, 9)),
    schedules.Polynomial(0.1, 20),
    Cosine(0.1, 20, end=0.01),
    schedules.CosineRestarts(0.1, 4),
    schedules.OneCycle(0.1, 20),
    schedules.WSD(0.1, 20),
    Cosine(0.1, 20).warmup(3).then(Constant(0.01), at=15),
    Cosine(0.1, 20).warmup(3).per_epoch(),
    Cosine(0.1, 1).warmup(0.1).over_run(),
]


@pytest.mark.parametrize("schedule", EVERY, ids=lambda schedule: type(schedule).__name__)
def test_every_schedule_survives_pickle_json_and_copy(schedule):
    assert pickle.loads(pickle.dumps(schedule)) == schedule == copy.deepcopy(schedule)
    text = json.dumps(schedules.describe(schedule))
    assert schedules.get(json.loads(text)) == schedule
    assert hash(schedule) == hash(copy.deepcopy(schedule))


def test_numpys_numbers_are_plain_ones_in_a_file():
    for schedule in (
        Constant(np.float32(0.1)),
        MultiStep(0.1, np.array([3, 9])),
        Cosine(np.float16(0.5), np.int64(20)).warmup(np.int64(3)),
    ):
        text = json.dumps(schedules.describe(schedule))
        assert schedules.get(json.loads(text)) == schedule


def test_the_table_is_tried_as_a_whole():
    tried = {type(schedule) for schedule in EVERY}
    tried |= {type(part) for schedule in EVERY for part in schedule.parts().values()}
    assert tried == set(schedules.TABLE.values())


# Without OneCycle, which ends at step n - 1 whatever n is, as torch's does.
@pytest.mark.parametrize(
    "schedule",
    [each for each in EVERY[:12] if not isinstance(each, schedules.OneCycle)],
    ids=lambda schedule: type(schedule).__name__,
)
def test_stretching_is_the_same_curve_over_more_steps(schedule):
    longer = schedule.stretched(10)
    assert [longer(10 * t) for t in range(25)] == pytest.approx([schedule(t) for t in range(25)])


class TestUnits:
    def test_epochs(self):
        schedule = Cosine(0.1, 90).warmup(5).per_epoch().resolve(steps_per_epoch=20)
        assert schedule == Cosine(0.1, 1800).warmup(100)

    def test_stairs_are_a_torch_scheduler_stepped_once_an_epoch(self):
        schedule = Exponential(0.1, 0.5).per_epoch(staircase=True).resolve(4, 16)
        assert [schedule(t) for t in range(9)] == [0.1] * 4 + [0.05] * 4 + [0.025]

    def test_shares_of_the_run(self):
        schedule = schedules.WSD(0.1, 1).warmup(0.3).then(Constant(0.2), at=0.7).over_run()
        expected = schedules.WSD(0.1, 1000).warmup(300).then(Constant(0.2), at=700)
        assert schedule.resolve(total_steps=1000) == expected

    def test_parts_have_units_of_their_own(self):
        schedule = MultiStep(0.1, (2, 3)).per_epoch().warmup(7)
        assert schedule.resolve(10, 40) == MultiStep(0.1, (20, 30)).warmup(7)

    def test_what_is_in_steps_stays_what_it_is(self):
        schedule = Cosine(0.1, 40)
        assert schedule.resolve(10, 40) is schedule

    def test_unresolved_units_cannot_be_called(self):
        for schedule in (Cosine(0.1, 9).per_epoch(), Cosine(0.1, 1).over_run().warmup(3)):
            with pytest.raises(RuntimeError, match=r"resolve\(steps_per_epoch, total_steps\)"):
                schedule(0)

    def test_missing_numbers(self):
        with pytest.raises(ValueError, match="number of batches an epoch"):
            Cosine(0.1, 9).per_epoch().resolve()
        with pytest.raises(ValueError, match="number of its steps"):
            Cosine(0.1, 1).over_run().resolve(steps_per_epoch=10)

    def test_a_schedule_shorter_than_the_run_is_refused(self):
        advice = r"longer \(n=\), .*over_run\(\).*then\(Constant\(0.01\)"
        with pytest.raises(ValueError, match=f"ends after 90 steps, but the run has 200.*{advice}"):
            Cosine(0.1, 9, end=0.01).per_epoch().resolve(10, 200)
        with pytest.raises(ValueError, match="ends after 50 steps, but the run has 100"):
            Constant(0.1).then(Cosine(0.1, 0.25), at=0.25).over_run().resolve(10, 100)
        for schedule in (
            Cosine(0.1, 1).over_run(),
            Constant(0.1),
            Cosine(0.1, 501),
            Constant(0.1).warmup(20),
            Cosine(0.1, 50).then(Constant(0.01), at=50),
            Cosine(0.1, 5).then(Constant(0.01), at=5).per_epoch(),
        ):
            schedule.resolve(10, 500)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(-0.1), "rate lr must be a number of 0 or more, got -0.1"),
        (lambda: Cosine(float("nan"), 5), "rate lr"),
        (lambda: Cosine(0.1, 0), "n must be a number above 0, got 0"),
        (lambda: Cosine(0.1, 5, end=-1), "rate end"),
        (lambda: Exponential(0.1, 0), "gamma must be a number above 0"),
        (lambda: Exponential.from_delta(0.1, -0.5), "delta must be 0 or more, got -0.5"),
        (lambda: Redwood(0.1, -1), "delta must be 0 or more"),
        (lambda: Redwood(0.1, float("inf")), "delta must be 0 or more, and finite, got inf"),
        (lambda: MultiStep(0.1, (5, 3)), r"milestones must increase, got \(5, 3\)"),
        (lambda: schedules.CosineRestarts(0.1, 5, t_mul=0.5), "t_mul must be 1 or more"),
        (lambda: schedules.OneCycle(0.1, 5, pct_start=1.5), "pct_start is a share"),
        (lambda: schedules.OneCycle(0.1, 5, anneal_strategy="kos"), "'cos' or 'linear', got 'kos'"),
        (lambda: schedules.WSD(0.1, 5, decay_share=-0.1), "decay_share is a share"),
        (lambda: schedules.WSD(0.1, 5, 0.5, 0.6), "together at most 1"),
        (lambda: schedules.WSD(0.1, 5, shape="liner"), "did you mean 'linear'"),
        (lambda: Constant(0.1).warmup(5, start=2), "warm-up's start is a share"),
        (lambda: Constant(0.1).warmup(0), "warm-up's n must be"),
        (lambda: Constant(0.1).then(0.2, at=-1), "at must be"),
        (lambda: Cosine(0.1, 90).over_run(), r"under over_run\(\) n is a share .* got 90"),
        (lambda: MultiStep(0.1, (0.5, 60)).over_run(), "milestones is a share"),
        (lambda: Cosine(0.1, 1).per_epoch().over_run(), "has its unit already"),
        (lambda: Constant(0.1).warmup(5).per_epoch(staircase=True), "whole first epoch would be 0"),
        (lambda: Constant(0.1).plot(), r"no end: say how many steps to draw, plot\(n\)"),
        (lambda: schedules.get("kosine", lr=0.1, n=5), "unknown schedule 'kosine': did you mean"),
        (lambda: schedules.get("cosine", lr=0.1), "schedule 'cosine'.*missing.*'n'"),
        (lambda: schedules.get("cosine", lr=0.1, steps=5), "argument of schedule cosine 'steps'"),
        (lambda: schedules.get(0.1, n=5), "they go with a name"),
        (lambda: schedules.describe(lambda t: 0.1), "cannot be saved"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_what_is_no_schedule():
    for spec in (True, [0.1], Cosine):
        with pytest.raises(TypeError):
            schedules.get(spec)
    with pytest.raises(TypeError, match="composed of schedules"):
        Constant(0.1).then(lambda t: 0.1, at=5)


def test_get():
    assert schedules.get(Cosine(0.1, 5)) == Cosine(0.1, 5)
    assert schedules.get(1) == Constant(1.0)
    assert schedules.get("CosineDecay", lr=0.1, n=5) == Cosine(0.1, 5)
    assert schedules.get(None) is None
    own = lambda t: 0.1 / (t + 1)  # noqa: E731
    assert schedules.get(own) is own


class TestTorchScheduler:
    schedule = Cosine(0.3, 40, end=0.01).warmup(10).then(Exponential(0.1, 0.9), at=30)

    def start(self, rates=(0.3, 0.6)):
        optimizer = torch.optim.SGD(
            [{"params": [nn.Parameter(torch.ones(1))], "lr": rate} for rate in rates]
        )
        return optimizer, self.schedule.to_torch(optimizer)

    def run(self, optimizer, scheduler, steps):
        rates = []
        for _ in range(steps):
            rates.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            scheduler.step()
        return rates

    def test_rates(self):
        optimizer, scheduler = self.start()
        assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
        for t, (first, second) in enumerate(self.run(optimizer, scheduler, 50)):
            assert first == pytest.approx(self.schedule(t))
            assert second == pytest.approx(2 * self.schedule(t))
        assert scheduler.get_last_lr() == [group["lr"] for group in optimizer.param_groups]

    @pytest.mark.parametrize("cut", [1, 9, 10, 29, 30, 31])
    @pytest.mark.parametrize("with_optimizer", [True, False])
    def test_resumes_at_the_right_rate(self, cut, with_optimizer, tmp_path):
        whole = self.run(*self.start(), 50)
        optimizer, scheduler = self.start()
        self.run(optimizer, scheduler, cut)
        torch.save((optimizer.state_dict(), scheduler.state_dict()), tmp_path / "state")
        saved, position = torch.load(tmp_path / "state", weights_only=True)
        optimizer, scheduler = self.start()
        if with_optimizer:
            optimizer.load_state_dict(saved)
        scheduler.load_state_dict(position)
        assert self.run(optimizer, scheduler, 50 - cut) == whole[cut:]

    def test_a_tensor_as_rate_is_filled(self):
        rate = torch.tensor(0.3)
        optimizer = torch.optim.Adam([nn.Parameter(torch.ones(1))], lr=rate)
        scheduler = self.schedule.to_torch(optimizer)
        scheduler.load_state_dict({**scheduler.state_dict(), "last_epoch": 20})
        assert optimizer.param_groups[0]["lr"] is rate
        assert float(rate) == pytest.approx(self.schedule(20))


def test_picture():
    pytest.importorskip("matplotlib", reason="matplotlib is optional")
    figure = Cosine(0.1, 2000).warmup(100).plot()
    (line,) = figure.axes[0].lines
    steps, rates = line.get_data()
    assert steps[0] == 0 and steps[-1] == 2000 and max(rates) == pytest.approx(0.1, rel=0.01)
    assert len(Constant(0.1).plot(10).axes[0].lines[0].get_xdata()) == 11


@pytest.mark.parametrize(
    ("schedule", "given", "unit", "end", "halfway"),
    [
        (Cosine(0.1, 1).over_run(), (), "share of the run", 1, 0.05),
        (Cosine(0.1, 1).over_run(), (100,), "step", 100, 0.05),
        (Cosine(0.1, 9).per_epoch(), (), "epoch", 9, 0.05),
        (Constant(0.1).per_epoch(), (20,), "epoch", 20, 0.1),
        (Cosine(0.1, 9).per_epoch(), (None, 50), "step", 450, 0.05),
        (Exponential(0.1, 0.5).per_epoch(True), (5,), "epoch", 5, 0.025),
        (Cosine(0.1, 10).per_epoch().warmup(5), (None, 2), "step", 20, 0.05),
    ],
)
def test_picture_in_a_unit(schedule, given, unit, end, halfway):
    pytest.importorskip("matplotlib", reason="matplotlib is optional")
    axes = schedule.plot(*given).axes[0]
    x, rates = axes.lines[0].get_data()
    assert axes.get_xlabel() == unit and (x[0], x[-1]) == (0, end)
    assert rates[len(rates) // 2] == pytest.approx(halfway)


def test_picture_that_needs_more():
    with pytest.raises(ValueError, match=r"say how many steps those have, plot\(n, steps_per"):
        Cosine(0.1, 10).per_epoch().warmup(5).plot(100)
    with pytest.raises(ValueError, match="no end: say how many epochs to draw"):
        Constant(0.1).per_epoch().plot()


def run_of(schedule, samples=40, epochs=3, batch_size=10, trainer=None, **options):
    """The rates a Trainer used, and the trainer."""
    rates: list[float] = []
    watch = LambdaCallback(
        on_train_batch_end=lambda batch, logs: rates.append(trainer.optimizer.param_groups[0]["lr"])
    )
    trainer = trainer or Trainer(nn.Linear(2, 1), "sgd", "mse", schedule=schedule)
    data = (torch.randn(samples, 2), torch.randn(samples, 1))
    trainer.fit(data, epochs=epochs, batch_size=batch_size, verbose=0, callbacks=[watch], **options)
    return rates, trainer


class TestTrainer:
    def test_units_are_resolved(self):
        rates, _ = run_of(Cosine(0.1, 1).over_run())
        assert rates == pytest.approx([Cosine(0.1, 12)(t) for t in range(12)])
        rates, _ = run_of(Exponential(0.1, 0.5).per_epoch(staircase=True))
        assert rates == pytest.approx([0.1] * 4 + [0.05] * 4 + [0.025] * 4)

    def test_a_number_and_a_function(self):
        assert run_of(0.25)[0] == [0.25] * 12
        assert run_of(lambda t: 1 / (t + 1))[0] == [1 / (t + 1) for t in range(12)]

    def test_steps_are_counted_over_all_fits(self):
        schedule = Exponential(0.1, 0.5).per_epoch()
        rates, trainer = run_of(schedule)
        more, _ = run_of(None, trainer=trainer)
        assert rates + more == pytest.approx([0.1 * 0.5 ** (t / 4) for t in range(24)])

    def test_a_run_taken_up_by_hand_ends_with_its_schedule(self):
        for done in (4, 6):  # at the end of an epoch, and inside one
            trainer = Trainer(nn.Linear(2, 1), "sgd", "mse", schedule=Cosine(0.1, 1).over_run())
            trainer.step_number = done
            rates, _ = run_of(None, trainer=trainer, initial_epoch=1)
            assert rates == pytest.approx([Cosine(0.1, done + 8)(done + t) for t in range(8)])

    def test_too_short_a_schedule_is_refused_before_anything_is_trained(self):
        trainer = Trainer(nn.Linear(2, 1), "sgd", "mse", schedule=Cosine(0.1, 2).per_epoch())
        begun = []
        callback = LambdaCallback(on_train_begin=lambda logs: begun.append(1))
        with pytest.raises(ValueError, match="ends after 8 steps, but the run has 12"):
            trainer.fit(
                (torch.randn(40, 2), torch.randn(40, 1)),
                epochs=3,
                batch_size=10,
                callbacks=[callback],
            )
        assert not begun and trainer.step_number == 0

    def test_data_without_length(self):
        class Endless(torch.utils.data.IterableDataset):
            def __iter__(self):
                yield from ((torch.ones(2), torch.ones(1)) for _ in range(8))

        loader = torch.utils.data.DataLoader(Endless(), batch_size=4)
        trainer = Trainer(nn.Linear(2, 1), "sgd", "mse", schedule=Cosine(0.1, 2).per_epoch())
        with pytest.raises(ValueError, match="number of batches an epoch"):
            trainer.fit(loader, verbose=0)
        Trainer(nn.Linear(2, 1), "sgd", "mse", schedule=Cosine(0.1, 9)).fit(loader, verbose=0)
        assert PerEpoch(Constant(0.1)).resolve(5) == Constant(0.1)
