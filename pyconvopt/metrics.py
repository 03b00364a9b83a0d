"""Metrics: sums over batches, so that the mean over an epoch weighs every sample alike.

`update(outputs, targets, from_logits)` adds a batch, `result()` is the mean so far, `reset()`
starts again. Sums stay on the device of the outputs; only `result` waits for it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from typing_extensions import override

from pyconvopt import registry


class Metric:
    """A mean over samples; a subclass gives `measure`, the sum over one batch."""

    default_name = "metric"

    def __init__(self, name: str | None = None) -> None:
        self.name = name or self.default_name
        self.reset()

    def reset(self) -> None:
        """Start counting anew."""
        self.total: Tensor | float = 0.0
        self.count = 0

    def measure(self, outputs: Tensor, targets: Tensor, from_logits: bool) -> Tensor:
        """The sum of the measure over the samples of a batch."""
        raise NotImplementedError

    def update(self, outputs: Tensor, targets: Tensor, from_logits: bool = False) -> None:
        """Add a batch."""
        self.total = self.total + self.measure(outputs, targets, from_logits)
        self.count += len(targets)

    def result(self) -> float:
        """The mean over the samples so far; NaN before the first."""
        return float(self.total) / self.count if self.count else float("nan")

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for a saved model."""
        return {"name": self.name}


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
    """The mean of a number that is known for each batch: the trainer keeps its loss here."""

    default_name = "loss"

    def add(self, value: Tensor, samples: int) -> None:
        """Add a batch's mean, weighed by its samples."""
        self.total = self.total + value * samples
        self.count += samples


TABLE: dict[str, type[Metric]] = {
    "accuracy": Accuracy,
    "acc": Accuracy,
    "sparse_categorical_accuracy": Accuracy,
    "categorical_accuracy": Accuracy,
    "binary_accuracy": Accuracy,
    "top_k_accuracy": TopKAccuracy,
    "top_k_categorical_accuracy": TopKAccuracy,
    "sparse_top_k_categorical_accuracy": TopKAccuracy,
    "mean_squared_error": MeanSquaredError,
    "mse": MeanSquaredError,
    "mean_absolute_error": MeanAbsoluteError,
    "mae": MeanAbsoluteError,
}


def get(spec: Any) -> Metric:
    """The metric of that name (which it then bears in the history), or the metric itself.

    >>> get('acc').name
    'acc'
    """
    if isinstance(spec, str):
        return registry.find("metric", TABLE, spec)(name=spec)
    if isinstance(spec, dict):
        return registry.find("metric", TABLE, spec["metric"])(**spec.get("config", {}))
    if isinstance(spec, Metric):
        return spec
    raise TypeError(f"a metric is a name or a Metric, got {spec!r}")


def describe(metric: Metric) -> dict[str, Any]:
    """Name and settings for a saved model; `get` reads them back."""
    for name, entry in TABLE.items():
        if entry is type(metric):
            return {"metric": name, "config": metric.get_config()}
    raise ValueError(f"metric {metric!r} cannot be saved: a file holds only metrics known by name")
