"""Metrics: sums over batches, so that the mean over an epoch weighs every sample alike.

`update(outputs, targets, from_logits)` adds a batch, `result()` is the mean so far, `reset()`
starts again. Sums stay on the device of the outputs; only `result` waits for it.
"""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from pyconvopt import registry


class Metric:
    """A mean over samples; a subclass gives `measure`, the sum over one batch."""

    default_name = "metric"
    adds_up = True  # `measure` says all of a batch: sums of several processes can be added

    def __init__(self, name: str | None = None) -> None:
        self.name = name or self.default_name
        self.reset()

    def reset(self) -> None:
        """Start counting anew."""
        self.total: Tensor | float = 0  # whole, so that counts stay exact
        self.count = 0

    def measure(self, outputs: Tensor, targets: Tensor, from_logits: bool) -> Tensor:
        """The sum of the measure over the samples of a batch."""
        raise NotImplementedError

    def update(self, outputs: Tensor, targets: Tensor, from_logits: bool = False) -> None:
        """Add a batch."""
        self.add(self.measure(outputs, targets, from_logits), len(targets))

    def add(self, measured: Tensor, samples: int) -> None:
        """Add what was measured of so many samples."""
        self.total = self.total + measured
        self.count += samples

    def result(self) -> float:
        """The mean over the samples so far; NaN before the first."""
        return float(self.total) / self.count if self.count else float("nan")

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for a saved model."""
        return {"name": self.name}

    def state_dict(self) -> dict[str, Any]:
        """What was counted so far, for a checkpoint."""
        return {"total": self.total, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting from there."""
        self.total, self.count = state["total"], state["count"]


class Accuracy(Metric):
    """The share of samples whose largest output is the label.

    Labels are class numbers (N,) or one-hot (N, classes); with a single output (N, 1), the share
    on the right side of 0.5.

    >>> import torch
    >>> accuracy = Accuracy()
    >>> accuracy.update(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    >>> accuracy.result()
    0.5
    """

    default_name = "accuracy"

    @override
    def measure(self, outputs: Tensor, targets: Tensor, from_logits: bool) -> Tensor:
        if outputs.dim() == 1 or outputs.shape[1] == 1:
            said = outputs > (0.0 if from_logits else 0.5)
            return (said == (targets.reshape(outputs.shape) > 0.5)).sum()
        if targets.dim() == outputs.dim():
            targets = targets.argmax(dim=1)
        hits = outputs.argmax(dim=1) == targets
        return hits.sum() if hits.dim() == 1 else hits.float().flatten(1).mean(1).sum()


class TopKAccuracy(Metric):
    """The share of samples whose label is among the k largest outputs (k = 5).

    >>> import torch
    >>> top = TopKAccuracy(k=2)
    >>> top.update(torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]]), torch.tensor([1, 2]))
    >>> top.result()
    0.5
    """

    default_name = "top_k_accuracy"

    def __init__(self, k: int = 5, name: str | None = None) -> None:
        super().__init__(name)
        self.k = k

    @override
    def measure(self, outputs: Tensor, targets: Tensor, from_logits: bool) -> Tensor:
        if targets.dim() == outputs.dim():
            targets = targets.argmax(dim=1)
        if self.k > outputs.shape[1]:
            raise ValueError(f"top-{self.k} accuracy of only {outputs.shape[1]} outputs")
        best = outputs.topk(self.k, dim=1).indices
        return (best == targets[:, None]).any(dim=1).sum()

    @override
    def get_config(self) -> dict[str, Any]:
        return {"k": self.k, "name": self.name}


class ConfusionMatrix(Metric):
    """How often each class is taken for each other: `matrix[true, said]`, counts (classes, classes).

    Its number in the history is the balanced accuracy: the mean over the classes that occur of the
    share of their samples that is recognised. After `evaluate` the matrix is of those data; after a
    `fit` with validation, of the last validation.

    Labels are class numbers (N,) or one-hot (N, classes); a single output (N, 1) means two classes.

    >>> import torch
    >>> matrix = ConfusionMatrix()
    >>> said = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.3, 0.7]])
    >>> matrix.update(said, torch.tensor([0, 0, 0, 1]))
    >>> matrix.matrix.tolist(), round(matrix.result(), 4)  # (1/3 + 1) / 2
    ([[1, 2], [0, 1]], 0.6667)
    """

    default_name = "balanced_accuracy"

    @property
    def matrix(self) -> Tensor:
        """The counts, rows the true class, columns the one said; (0, 0) before the first batch."""
        return self.total if isinstance(self.total, Tensor) else torch.zeros(0, 0).long()

    @override
    def measure(self, outputs: Tensor, targets: Tensor, from_logits: bool) -> Tensor:
        if outputs.dim() == 1 or outputs.shape[1] == 1:
            classes, said = 2, (outputs.flatten() > (0.0 if from_logits else 0.5)).long()
            truth = (targets.flatten() > 0.5).long()
        else:
            classes, said = outputs.shape[1], outputs.argmax(dim=1).flatten()
            one_hot = targets.dim() == outputs.dim()
            truth = (targets.argmax(dim=1) if one_hot else targets).flatten()
        pairs = torch.bincount(truth * classes + said, minlength=classes * classes)
        return pairs.reshape(classes, classes)

    @override
    def result(self) -> float:
        occurring = self.matrix.sum(dim=1) > 0
        if not bool(occurring.any()):
            return float("nan")
        recall = self.matrix.diagonal()[occurring] / self.matrix.sum(dim=1)[occurring]
        return float(recall.mean())


class MeanSquaredError(Metric):
    """The mean of (output - target)²."""

    default_name = "mse"

    @override
    def measure(self, outputs: Tensor, targets: Tensor, from_logits: bool) -> Tensor:
        return (outputs - targets).square().flatten(1).mean(dim=1).sum()


class MeanAbsoluteError(Metric):
    """The mean of |output - target|."""

    default_name = "mae"

    @override
    def measure(self, outputs: Tensor, targets: Tensor, from_logits: bool) -> Tensor:
        return (outputs - targets).abs().flatten(1).mean(dim=1).sum()


class Average(Metric):
    """The mean of a number whose sum over a batch is known: the trainer keeps its loss here."""

    default_name = "loss"


class TorchMetric(Metric):
    """Any object with torchmetrics' `update(outputs, targets)`, `compute()` and `reset()`.

    It is given probabilities where the model hands over logits. Its name in the history is its
    class's in snake case.

    Errors: ValueError if `compute` gives more than one number.
    """

    adds_up = False

    def __init__(self, metric: Any, name: str | None = None) -> None:
        self.metric = metric
        if hasattr(metric, "sync_on_compute"):  # every process is shown the joined batch already
            metric.sync_on_compute = False
        class_name = type(metric).__name__
        self.yes_or_no = class_name.startswith(("Binary", "Multilabel"))
        super().__init__(name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", class_name).lower())

    @override
    def reset(self) -> None:
        super().reset()
        self.metric.reset()

    @override
    def update(self, outputs: Tensor, targets: Tensor, from_logits: bool = False) -> None:
        if from_logits:
            outputs = outputs.sigmoid() if self.yes_or_no else outputs.softmax(dim=1)
        self.metric.update(outputs, targets.long() if self.yes_or_no else targets)
        self.count += len(targets)

    @override
    def result(self) -> float:
        if not self.count:
            return float("nan")
        value = self.metric.compute()
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(
                f"metric {self.name} gives {value.numel()} numbers, wanted one: choose its average, "
                "such as average='macro'"
            )
        return float(value)

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


TABLE: dict[str, type[Metric]] = {
    "accuracy": Accuracy,
    "acc": Accuracy,
    "sparse_categorical_accuracy": Accuracy,
    "categorical_accuracy": Accuracy,
    "binary_accuracy": Accuracy,
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

    A metric of torchmetrics, or what looks like one, is wrapped in `TorchMetric`.

    >>> get('acc').name
    'acc'
    """
    if isinstance(spec, str):
        return registry.find("metric", TABLE, spec)(name=spec)
    if isinstance(spec, dict):
        return registry.find("metric", TABLE, spec["metric"])(**spec.get("config", {}))
    if isinstance(spec, Metric):
        return spec
    if not isinstance(spec, type) and all(
        hasattr(spec, method) for method in ("update", "compute", "reset")
    ):
        return TorchMetric(spec)
    raise TypeError(f"a metric is a name, a Metric or one of torchmetrics, got {spec!r}")


def describe(metric: Metric) -> dict[str, Any]:
    """Name and settings for a saved model; `get` reads them back."""
    for name, entry in TABLE.items():
        if entry is type(metric):
            return {"metric": name, "config": metric.get_config()}
    raise ValueError(f"metric {metric!r} cannot be saved: a file holds only metrics known by name")
