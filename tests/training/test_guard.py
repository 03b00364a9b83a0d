"""A loss that is no number stops the run, and the weights that come back are good ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pyconvopt import averaging, optimizers
from pyconvopt.training import Trainer, guard
from tests.small_models import points, sgd

HUGE = 1e300  # times a gradient more than any float


def flat(model) -> torch.Tensor:
    return torch.cat([each.detach().clone().flatten() for each in model.parameters()])


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


class Averaged(optimizers.SGD):
    """A Schedule-Free optimiser's manners: y in the model while training, a mean of the z to ask."""

    def step(self, closure=None):
        super().step(closure)
        for weight in self.param_groups[0]["params"]:
            state = self.state[weight]
            state["mean"] = (state.get("mean", weight.detach()) + weight.detach()) / 2

    def train(self):
        pass

    @torch.no_grad()
    def eval(self):
        for weight in self.param_groups[0]["params"]:
            weight.copy_(self.state[weight]["mean"])


class TestGuard:
    def explode(self, **options) -> tuple[Trainer, torch.Tensor]:
        """A run whose rate becomes huge at step 3: the weights are spoilt, then the loss."""
        model = net()
        given = {"schedule": lambda step: HUGE if step == 3 else 0.05, **options}
        return Trainer(model, given.pop("optimizer", "sgd"), **given), flat(model)

    def test_stops_with_good_weights(self):
        trainer, start = self.explode()
        with pytest.warns(
            UserWarning, match="the loss is nan at step 4 .*weights of step 0; lower"
        ):
            history = trainer.fit(points(), batch_size=8, epochs=5, verbose=0)
        assert history.epoch == [0] and trainer.failure.startswith("the loss is nan at step 4")
        assert torch.equal(flat(trainer.model), start)
        assert all(bool(torch.isfinite(each.float()).all()) for each in trainer.model.buffers())

    def test_copies_are_taken_again(self, monkeypatch):
        monkeypatch.setattr(guard, "STEPS_BETWEEN_COPIES", 2)
        monkeypatch.setattr(guard, "STEPS_TO_CONFIRM", 1)
        trainer, start = self.explode()
        with pytest.warns(UserWarning, match="weights of step 2"):
            trainer.fit(points(), batch_size=8, verbose=0)
        weights = flat(trainer.model)
        assert not torch.equal(weights, start) and bool(torch.isfinite(weights).all())

    def test_gradients_that_waited_are_dropped(self):
        trainer, start = self.explode(accumulate=2)
        with pytest.warns(UserWarning, match="the loss is nan"):
            trainer.fit(points(72), batch_size=8, verbose=0)
        assert torch.equal(flat(trainer.model), start)

    def test_can_be_left_out(self):
        trainer, _ = self.explode(guard=False)
        history = trainer.fit(points(), batch_size=8, epochs=2, verbose=0)
        assert history.epoch == [0, 1] and trainer.failure is None

    @pytest.mark.parametrize(
        "options",
        [{"callbacks": [averaging.EMA(0.9)]}, {"optimizer": lambda each: Averaged(each, lr=0.05)}],
        ids=["ema", "schedule_free"],
    )
    def test_the_average_that_took_the_bad_step_is_left_out(self, options):
        trainer, start = self.explode(**options)
        with pytest.warns(UserWarning, match="weights of step 0"):
            history = trainer.fit(
                points(), batch_size=8, epochs=2, verbose=0, validation=points(seed=1)
            )
        seen = history.history["val_loss"]
        assert torch.equal(flat(trainer.model), start)
        assert len(seen) == 1 and seen[0] < 2, "validation had the average"

    def test_pytorch_optimizers_schedule_free(self):
        pytest.importorskip("pytorch_optimizer", reason="pytorch-optimizer is optional")
        model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
        start = flat(model)
        trainer = Trainer(model, "schedule_free_sgd", learning_rate=1e30)
        with pytest.warns(UserWarning, match="weights of step 0"):
            trainer.fit(points(), batch_size=8, epochs=5, verbose=0)
        assert torch.equal(flat(model), start)


class TestLastUpdate:
    @pytest.mark.parametrize("rate", [1e30, HUGE])
    @pytest.mark.parametrize("validation", [None, points(seed=1)], ids=["alone", "validated"])
    def test_is_looked_at(self, rate, validation):
        model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
        start = flat(model)
        trainer = Trainer(model, "sgd", learning_rate=rate)
        with pytest.warns(
            UserWarning, match="last update, step 0, left weights .*of step 0; lower"
        ):
            history = trainer.fit(points(), batch_size=64, verbose=0, validation=validation)
        assert torch.equal(flat(model), start) and model.stop_training
        assert "last update" in trainer.failure
        if validation is not None:
            assert history.history["val_loss"][0] < 5

    def test_a_gradient_that_is_no_number(self):
        model = nn.Linear(2, 2)
        start = flat(model)

        def loss(outputs, targets):
            return nn.functional.cross_entropy(outputs, targets) + (0 * outputs).sqrt().sum()

        trainer = Trainer(model, "sgd", loss)
        with pytest.warns(UserWarning, match="last update, step 0"):
            trainer.fit(points(), batch_size=64, verbose=0)
        assert torch.equal(flat(model), start)

    def test_leaves_no_trace(self):
        """The loss it asks for moves no statistics, draws no numbers, is no batch of an average."""
        runs = []
        for watched in (True, False):
            model = nn.Sequential(net(), nn.Dropout(0.5))
            torch.manual_seed(1)
            average = averaging.EMA(0.5)
            Trainer(model, sgd, guard=watched, callbacks=[average]).fit(
                points(), batch_size=16, seed=0, verbose=0
            )
            runs.append((model.state_dict(), torch.get_rng_state(), len(average.recent)))
        for name, value in runs[0][0].items():
            assert torch.equal(value, runs[1][0][name]), name
        assert torch.equal(runs[0][1], runs[1][1]) and runs[0][2] == runs[1][2] == 4


class TestCopies:
    def test_one_taken_while_the_loss_blows_up_does_not_count(self):
        """From step 195 the rate is far too large, the loss finite for long: 200 is too late."""
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        x = torch.randn(32, 3)
        y = x @ torch.randn(3, 2) + torch.randn(32, 2)
        trainer = Trainer(model, "sgd", "mse", schedule=lambda t: 0.05 if t < 195 else 3.0)
        before = trainer.evaluate((x, y))["loss"]
        with pytest.warns(UserWarning, match="training stops, with the weights of step 0"):
            trainer.fit((x, y), batch_size=32, epochs=600, verbose=0)
        assert trainer.step_number > 210
        assert trainer.evaluate((x, y))["loss"] == pytest.approx(before)

    def watched(self, losses) -> guard.FiniteGuard:
        weight = nn.Linear(1, 1)
        found = guard.FiniteGuard(weight)
        for step, loss in enumerate(losses):
            assert found.passes(torch.tensor(loss), step, 0.1)
        return found

    def test_calm_losses(self):
        """Copies come every 200 steps, count ten steps later, and there are two just until then."""
        found = self.watched([1.0] * 205)
        assert (found.good.step, found.candidate.step) == (0, 200)
        found = self.watched([1.0] * 211)
        assert found.good.step == 200 and found.candidate is None
        # Nearly nothing left to learn: ten times the lowest loss is no blow-up.
        assert self.watched([2.0] + [1e-6] * 300 + [1e-3] * 300).good.step == 400

    def test_losses_that_blow_up(self):
        assert self.watched([1.0] * 203 + [1e3] * 300).good.step == 0  # after the copy
        assert self.watched([1.0] * 195 + [1e3] * 300).good.step == 0  # before it
        slowly = [1.02**step for step in range(900)]
        assert self.watched(slowly).good.step < 200
        assert self.watched([-1.0] * 211 + [100.0] * 300).good.step == 200  # below 0 too
        again = self.watched([1.0] * 195 + [1e3] * 10 + [1.0] * 200)
        assert 205 < again.good.step < 300  # as soon as it is calm again
