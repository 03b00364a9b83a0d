"""Methods by name: what is wrong with a name or a setting is said, with the nearest right one."""

from __future__ import annotations

import pytest

from pyconvopt import layers, losses, optimizers, registry, regularizers, schedules
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
        (lambda: losses.get({"config": {}}), "loss: a mapping needs the method's 'name', got"),
        (lambda: losses.get({"name": 3}), "loss: a mapping needs the method's 'name', got"),
        (
            lambda: layers.make_layer({"type": "Conv2D", "filter": 8, "kernel_size": 3}),
            "unknown argument of Conv2D 'filter': did you mean 'filters'",
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
