"""The metrics of this library: how often a model is right, and how far off its numbers are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from pyconvopt.metrics.base import Metric


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
