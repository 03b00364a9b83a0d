"""Metrics of torchmetrics, or of anybody with its `update`, `compute` and `reset`.

What `compute` gives goes into the history as numbers: one as it is, those of a vector under their
indices, those of a dict under their keys. A matrix or a curve is no line of a history; the metric
object has it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from torch import Tensor
from typing_extensions import override

from pyconvopt.metrics.base import Metric


def is_torch_metric(spec: Any) -> bool:
    """Whether an object has torchmetrics' three methods; a class is none."""
    methods = ("update", "compute", "reset")
    return not isinstance(spec, type) and all(hasattr(spec, each) for each in methods)


def is_collection(spec: Any) -> bool:
    """Whether it holds metrics by name, as torchmetrics' MetricCollection."""
    return is_torch_metric(spec) and hasattr(spec, "items")


def members(collection: Any) -> list[TorchMetric]:
    """The metrics of a collection under the names it gives them, classes' ones in snake case."""
    return [
        TorchMetric(metric, snake_case(name) if type(metric).__name__ in name else name)
        for name, metric in collection.items()
    ]


def snake_case(name: str) -> str:
    """A class's name as that of a number.

    >>> snake_case('MulticlassF1Score'), snake_case('MulticlassAUROC')
    ('multiclass_f1_score', 'multiclass_auroc')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


class TorchMetric(Metric):
    """Any object with torchmetrics' `update(outputs, targets)`, `compute()` and `reset()`.

    Args: metric, name (None: its class's in snake case). It is given probabilities where the model
    hands over logits.

    One number goes into the history under that name; those of a vector (`average=None`: one a
    class) as `name_0`, `name_1` ..., those of a dict as `name_key`. A matrix or a curve does not:
    after `evaluate`, or a `fit` with validation, `metric.compute()` is that of those data.

    Errors: ValueError if the metric refuses the outputs and labels.
    """

    adds_up = False

    def __init__(self, metric: Any, name: str | None = None) -> None:
        self.metric = metric
        if hasattr(metric, "sync_on_compute"):  # every process is shown the joined batch already
            metric.sync_on_compute = False
        class_name = type(metric).__name__
        self.yes_or_no = class_name.startswith(("Binary", "Multilabel"))
        super().__init__(name or snake_case(class_name))

    @override
    def reset(self) -> None:
        super().reset()
        self.metric.reset()

    @override
    def update(self, outputs: Tensor, targets: Tensor, from_logits: bool = False) -> None:
        if from_logits and self.activation is None and self.yes_or_no:
            outputs = outputs.sigmoid()
        else:
            outputs = self.activated(outputs, from_logits)
        try:
            self.metric.update(outputs, targets.long() if self.yes_or_no else targets)
        except (ValueError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"{type(self.metric).__name__} refuses outputs of shape {tuple(outputs.shape)} with "
                f"labels of shape {tuple(targets.shape)}: {' '.join(str(error).split())}"
            ) from error
        self.count += len(targets)

    @override
    def result(self) -> float:
        """The number that `compute` gives; ValueError if it gives others than one."""
        found = self.results()
        if list(found) != [self.name]:
            raise ValueError(
                f"metric {self.name} gives {len(found)} numbers: {', '.join(found) or 'an array'}"
            )
        return found[self.name]

    @override
    def results(self) -> dict[str, float]:
        if not self.count:
            return {self.name: float("nan")}
        return dict(numbers(self.name, self.metric.compute()))

    @override
    def state_dict(self) -> dict[str, Any]:
        self.metric.persistent(True)
        return {"count": self.count, "metric": dict(self.metric.state_dict())}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.reset()
        self.metric.persistent(True)
        # A copy: the metric keeps the lists it is given, and its next reset empties them.
        self.metric.load_state_dict(deepcopy(state["metric"]))
        self.count = state["count"]


def numbers(name: str, value: Any) -> list[tuple[str, float]]:
    """What of a metric's value are numbers, with their names.

    >>> import torch
    >>> numbers('f1', {'each': torch.tensor([0.5, 1.0]), 'mean': 0.75})
    [('f1_each_0', 0.5), ('f1_each_1', 1.0), ('f1_mean', 0.75)]
    >>> numbers('counts', torch.ones(2, 2))
    []
    """
    if isinstance(value, Mapping):
        return [pair for key, each in value.items() for pair in numbers(f"{name}_{key}", each)]
    if isinstance(value, Tensor):
        value = value.tolist() if value.numel() != 1 else value.item()
    if isinstance(value, (list, tuple)):
        if any(isinstance(each, (list, tuple, Tensor)) for each in value):
            return []
        return [(f"{name}_{index}", float(each)) for index, each in enumerate(value)]
    return [(name, float(value))]
