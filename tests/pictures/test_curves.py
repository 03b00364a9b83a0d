"""The numbers of a run over its epochs, and the schedule before it."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from pyconvopt import pictures, schedules
from pyconvopt.training import History
from tests.small_models import dense, points


def fitted(**options):
    model = dense()
    model.compile(
        "adam",
        "sparse_categorical_crossentropy",
        ["accuracy"],
        schedule=schedules.Exponential(0.1, 0.5).per_epoch(),
    )
    return model.fit(*points(), epochs=5, batch_size=32, verbose=0, **options)


def lines(axes) -> dict[str, tuple[list, list]]:
    return {
        line.get_label().split(":")[0]: (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.lines
    }


class TestCurves:
    def test_a_panel_for_each_number_and_one_for_the_rate(self):
        history = fitted(validation_data=points(seed=1))
        loss, accuracy, rate = pictures.curves(history, held_out="test images").axes
        assert [each.get_title() for each in (loss, accuracy, rate)] == [
            "loss",
            "accuracy",
            "learning rate",
        ]
        numbers = history.history
        assert lines(loss)["train"] == ([1, 2, 3, 4, 5], numbers["loss"])
        assert lines(accuracy)["test images"][1] == numbers["val_accuracy"]
        assert len(rate.lines) == 1
        # At the end of epoch e, one of its two steps before the next: 0.1 · 0.5^(e + 1/2).
        wanted = [0.1 * 0.5 ** (epoch + 0.5) for epoch in range(5)]
        assert list(rate.lines[0].get_ydata()) == pytest.approx(wanted)

    def test_values_of_rare_validations_stand_at_their_epochs(self):
        history = fitted(validation_data=points(seed=1), validation_freq=[2, 5])
        assert history.validated == [1, 4]
        loss, accuracy, _ = pictures.curves(history).axes
        assert lines(loss)["validation"] == ([2, 5], history.history["val_loss"])
        assert len(lines(accuracy)["train"][0]) == 5

    def test_refusals(self):
        with pytest.raises(ValueError, match="holds no epoch yet"):
            pictures.curves(History())
        history = History()
        history.epoch, history.history = [0, 1], {"loss": [1.0, 0.5], "val_loss": [1.0]}
        with pytest.raises(ValueError, match="val_loss has 1 values for 2 epochs"):
            pictures.curves(history)

    def test_a_resumed_run_knows_its_validations(self):
        history = fitted(validation_data=points(seed=1), validation_freq=2)
        again = History()
        again.load_state_dict(history.state_dict())
        assert again.validated == [1, 3] and again.epochs_of("val_loss") == [1, 3]


class TestSchedule:
    def test_rates_are_those_of_training(self):
        schedule = schedules.Cosine(0.2, 1).warmup(0.25).over_run()
        figure = pictures.schedule(schedule, steps_per_epoch=10, epochs=4)
        axes = figure.axes[0]
        steps, rates = axes.lines[0].get_data()
        in_steps = schedules.for_run(schedule, 10, 4)
        assert list(steps) == list(range(41))
        assert list(rates) == [in_steps(step) for step in steps]
        # Epochs above: where the steps end at 40 the epochs end at 4.
        above = axes.child_axes[0]
        figure.draw_without_rendering()
        assert above.get_xlabel() == "epoch"
        assert np.allclose(above.get_xlim(), np.array(axes.get_xlim()) / 10)

    def test_a_function_is_asked_whole_steps(self):
        asked = []

        def rate(step):
            asked.append(step)
            return 0.1

        pictures.schedule(rate, steps_per_epoch=3000, epochs=1)
        assert len(asked) > 100 and all(isinstance(step, int) for step in asked)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((None, 10, 1), "there is no schedule"),
            ((0.1, 0, 1), "steps_per_epoch must be a whole number >= 1, got 0"),
            ((0.1, 10, 1.5), "epochs must be a whole number >= 1, got 1.5"),
        ],
    )
    def test_refusals(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            pictures.schedule(*arguments)
