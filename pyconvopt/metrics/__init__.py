"""Metrics: numbers of an epoch beside its loss, by name, as objects, or of torchmetrics.

`update(outputs, targets, from_logits)` adds a batch, `result()` is the mean so far, `reset()`
starts again. Sums stay on the device of the outputs; only `result` waits for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyconvopt import registry
from pyconvopt.metrics.base import Average, Metric
from pyconvopt.metrics.measures import (
    Accuracy,
    BinaryAccuracy,
    ConfusionMatrix,
    MeanAbsoluteError,
    MeanSquaredError,
    TopKAccuracy,
)
from pyconvopt.metrics.torch_metric import TorchMetric, is_collection, is_torch_metric, members

__all__ = [
    "TABLE",
    "Accuracy",
    "Average",
    "BinaryAccuracy",
    "ConfusionMatrix",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Metric",
    "TopKAccuracy",
    "TorchMetric",
    "describe",
    "get",
    "get_all",
]

TABLE: dict[str, type[Metric]] = {
    "accuracy": Accuracy,
    "acc": Accuracy,
    "sparse_categorical_accuracy": Accuracy,
    "categorical_accuracy": Accuracy,
    "binary_accuracy": BinaryAccuracy,
    "top_k_accuracy": TopKAccuracy,
    "top_k_categorical_accuracy": TopKAccuracy,
    "sparse_top_k_categorical_accuracy": TopKAccuracy,
    "balanced_accuracy": ConfusionMatrix,
    "confusion_matrix": ConfusionMatrix,
    "mean_squared_error": MeanSquaredError,
    "mse": MeanSquaredError,
    "mean_absolute_error": MeanAbsoluteError,
    "mae": MeanAbsoluteError,
}


def get(spec: Any) -> Metric:
    """The metric of that name (which it then bears in the history), or the metric itself.

    A metric of torchmetrics, or what looks like one, is wrapped in `TorchMetric`; for a
    MetricCollection see `get_all`.

    >>> get('acc').name
    'acc'
    """
    if isinstance(spec, str):
        return registry.find("metric", TABLE, spec)(name=spec)
    if isinstance(spec, dict) and "metric" in spec:
        try:
            return registry.find("metric", TABLE, spec["metric"])(**spec.get("config", {}))
        except TypeError as error:
            raise ValueError(f"metric {spec['metric']!r}: {error}") from None
    if isinstance(spec, Metric):
        return spec
    if isinstance(spec, type) and issubclass(spec, Metric):
        raise TypeError(f"got the class {spec.__name__} for metric: write {spec.__name__}()")
    if is_torch_metric(spec):
        return TorchMetric(spec)
    raise TypeError(f"a metric is a name, a Metric or one of torchmetrics, got {spec!r}")


TAKEN = ("loss", "epoch", "learning_rate")  # names that a history has without a metric


def get_all(specs: Iterable[Any]) -> list[Metric]:
    """The metrics of several specs; a MetricCollection of torchmetrics gives each of its own.

    Errors: ValueError for two of one name, which would hide each other, and for names that the history
    has for something else.

    >>> [metric.name for metric in get_all(['accuracy', 'mse'])]
    ['accuracy', 'mse']
    """
    found = [
        metric
        for spec in specs
        for metric in (members(spec) if is_collection(spec) else [get(spec)])
    ]
    names = [*TAKEN, *(metric.name for metric in found)]
    names += [f"val_{name}" for name in names]
    for metric in found:
        if names.count(metric.name) > 1:
            kind = type(metric).__name__
            given = "metric, " if isinstance(metric, TorchMetric) else ""
            raise ValueError(
                f"two numbers of the run would both be called {metric.name!r}: name one of them, "
                f"metrics.{kind}({given}name='...')"
            )
    return found


def describe(metric: Metric) -> dict[str, Any]:
    """Name and settings for a saved model; `get` reads them back."""
    for name, entry in TABLE.items():
        if entry is type(metric):
            return {"metric": name, "config": metric.get_config()}
    raise ValueError(f"metric {metric!r} cannot be saved: a file holds only metrics known by name")
