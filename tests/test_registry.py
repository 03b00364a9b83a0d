"""Methods by name: what is wrong with a name or a setting is said, with the nearest right one."""

from __future__ import annotations

import numpy as np
import pytest

from pyconvopt import initializers, layers, losses, optimizers, registry, regularizers, schedules
from pyconvopt.models import architectures


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: schedules.get("cosine", lr=0.1, m=3),
            "unknown argument of schedule cosine 'm': .*Known: end, lr, n",
        ),
        (
            lambda: regularizers.get({"name": "l2", "config": {"strength": 1}}),
            "unknown argument of regularizer l2 'strength': .*Known: l",
        ),
        (
            lambda: schedules.get("inverse_time", lr=0.1, n=3, decay_rate=1, staircase="no"),
            "schedule inverse_time: staircase must be true or false, got 'no'",
        ),
        (
            lambda: losses.get({"name": "huber", "config": {"delta": "a"}}),
            "loss huber: delta must be a number, got 'a'",
        ),
        (
            lambda: losses.get({"name": "huber", "delta": 2.0}),
            "loss huber: settings such as 'delta' belong into its 'config'",
        ),
        (
            lambda: initializers.get({"name": "orthogonal", "config": {"seed": "a"}}),
            "initializer orthogonal: seed must be a whole number or None, got 'a'",
        ),
        (lambda: registry.find("loss", losses.TABLE, 3), "loss must be a name, got 3"),
        (lambda: losses.get({"config": {}}), "loss: a mapping needs the method's 'name', got"),
        (lambda: losses.get({"name": 3}), "loss: a mapping needs the method's 'name', got"),
        (
            lambda: layers.make_layer({"type": "Conv2D", "filter": 8, "kernel_size": 3}),
            "unknown argument of Conv2D 'filter': did you mean 'filters'",
        ),
        (
            lambda: layers.make_layer({"type": "BatchNormalization", "center": 1}),
            "BatchNormalization: center must be true or false, got 1",
        ),
        (
            lambda: layers.make_layer({"type": "Dense", "units": 3, "trainable": "yes"}),
            "Dense: trainable must be true or false, got 'yes'",
        ),
        (
            lambda: layers.make_layer({"type": "Dense"}),
            "Dense: .*missing 1 required positional argument: 'units'",
        ),
        (
            lambda: architectures.build("resnet18", classes=3),
            "unknown argument of resnet18 'classes': did you mean 'num_classes'",
        ),
    ],
)
def test_what_is_wrong_is_said(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_takes_any_argument_is_not_asked():
    registry.refuse_unknown("sam", optimizers.SAM, ["rho", "momentum"])


def test_numbers_and_truth_values_of_numpy_are_taken():
    layer = layers.make_layer({"type": "Dense", "units": np.int64(2), "use_bias": np.False_})
    assert layer.get_config()["use_bias"] is False
    assert losses.get({"name": "huber", "config": {"delta": np.float32(2)}}).delta == 2
