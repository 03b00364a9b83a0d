"""Loss curves stay with torch's: the quick ones here, all by ``python -m tests.accelerate.loss_curves``."""

from __future__ import annotations

import pytest

from . import loss_curves

QUICK = [
    "benchmarks.article",
    "benchmarks.article_bn",
    "models.resnet_cifar",
    "models.wide_resnet",
    "models.unet",
]


@pytest.mark.parametrize("name", QUICK)
def test_fifty_steps(name):
    ours, theirs = loss_curves.curves(name)
    away, spread = loss_curves.distances(ours, theirs)
    assert loss_curves.follows(ours, theirs), f"distance {away}, spread of torch's runs {spread}"


def test_the_rule_notices_a_larger_learning_rate(monkeypatch):
    _, theirs = loss_curves.curves("models.resnet_cifar")
    monkeypatch.setattr(loss_curves, "RATE", 1.1 * loss_curves.RATE)
    other, _ = loss_curves.curves("models.resnet_cifar")
    assert not loss_curves.follows(other, theirs)
