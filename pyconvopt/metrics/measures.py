"""The metrics of this library: how often a model is right, and how far off its numbers are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from pyconvopt.data.checks import whole
from pyconvopt.losses import require_classes
from pyconvopt.metrics.base import Metric, is_single


def of_samples(values: Tensor) -> Tensor:
    """The sum over the samples of each one's mean; whole where a sample has one truth value."""
    if values.dim() > 1:
        values = values.flatten(1)
        values = values[:, 0] if values.shape[1] == 1 else values.float().mean(dim=1)
    return values.sum()


def of_outputs_shape(outputs: Tensor, targets: Tensor, name: str) -> Tensor:
    """Targets, one an output, in the outputs' shape and type; ValueError for another number."""
    if targets.numel() != outputs.numel() or len(targets) != len(outputs):
        raise ValueError(
            f"{name} compares outputs and targets of one shape, got outputs {tuple(outputs.shape)} "
            f"and targets {tuple(targets.shape)}"
        )
    return targets.reshape(outputs.shape).to(outputs.dtype)


def class_labels(outputs: Tensor, targets: Tensor) -> Tensor:
    """Class numbers (N, ...) from such, from (N, 1, ...), or from one-hot (N, classes, ...)."""
    if targets.dim() < outputs.dim():
        return targets
    return targets[:, 0] if targets.shape[1] == 1 else targets.argmax(dim=1)


def right_answers(outputs: Tensor, labels: Tensor) -> Tensor | int:
    """Of how many samples the largest output is at the label, a mean over the places of a map.

    One operator for float32 rows on the CPU: between training steps, with cold caches, torch's four
    take 140 µs.
    """
    is_plain = outputs.dim() == 2 and outputs.dtype is torch.float32 and labels.dtype is torch.int64
    if is_plain and outputs.is_cpu and outputs.is_contiguous() and labels.is_contiguous():
        return torch.ops.pyconvopt.right_answers.default(outputs, labels)
    return of_samples(outputs.argmax(dim=1) == labels)


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
    def measure(self, outputs: Tensor, targets: Tensor, from_logits: bool) -> Tensor | int:
        if is_single(outputs):
            said = outputs > (0.0 if from_logits else 0.5)
            return of_samples(said == (of_outputs_shape(outputs, targets, self.name) > 0.5))
        return right_answers(outputs, class_labels(outputs, targets))


class BinaryAccuracy(Metric):
    """The share of outputs on the right side of `threshold` (0.5): of yes or no, or of many of them.

    Targets are 0 or 1, one an output.

    Errors: ValueError for targets of another shape.

    >>> import torch
    >>> accuracy = BinaryAccuracy()
    >>> accuracy.update(torch.tensor([[0.9, 0.2, 0.6]]), torch.tensor([[1.0, 1.0, 1.0]]))
    >>> round(accuracy.result(), 4)
    0.6667
    """

    default_name = "binary_accuracy"

    def __init__(self, threshold: float = 0.5, name: str | None = None) -> None:
        super().__init__(name)
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must lie in 0 ... 1, got {threshold}")
        self.threshold = float(threshold)

    @override
    def measure(self, outputs: Tensor, targets: Tensor, from_logits: bool) -> Tensor:
        said = self.activated(outputs, from_logits) > self.threshold
        return of_samples(said == (of_outputs_shape(outputs, targets, self.name) > 0.5))

    @override
    def get_config(self) -> dict[str, Any]:
        return {"threshold": self.threshold, "name": self.name}


class TopKAccuracy(Metric):
    """The share of samples whose label is among the k largest outputs (k = 5).

    Errors: ValueError for a k that is no whole number >= 1, or more than the outputs.

    >>> import torch
    >>> top = TopKAccuracy(k=2)
    >>> top.update(torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]]), torch.tensor([1, 2]))
    >>> top.result()
    0.5
    """

    default_name = "top_k_accuracy"

    def __init__(self, k: int = 5, name: str | None = None) -> None:
        super().__init__(name)
        self.k = whole("k", k)

    @override
    def measure(self, outputs: Tensor, targets: Tensor, from_logits: bool) -> Tensor:
        if self.k > outputs.shape[1]:
            raise ValueError(f"top-{self.k} accuracy of only {outputs.shape[1]} outputs")
        labels = class_labels(outputs, targets)
        best = outputs.topk(self.k, dim=1).indices
        return of_samples((best == labels[:, None]).any(dim=1))

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
    def measure(self, outputs: Tensor, targets: Tensor, from_logits: bool) -> Tensor | int:
        if is_single(outputs):
            classes, said = 2, (outputs.flatten() > (0.0 if from_logits else 0.5)).long()
            truth = (targets.flatten() > 0.5).long()
        else:
            classes, said = outputs.shape[1], outputs.argmax(dim=1).flatten()
            truth = class_labels(outputs, targets).flatten().long()
            if len(truth):
                require_classes(outputs, truth)
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
    """The mean of (output - target)².

    Errors: ValueError for targets of another shape.
    """

    default_name = "mse"

    @override
    def measure(self, outputs: Tensor, targets: Tensor, from_logits: bool) -> Tensor:
        outputs = self.activated(outputs, from_logits)
        return of_samples((outputs - of_outputs_shape(outputs, targets, self.name)).square())


class MeanAbsoluteError(Metric):
    """The mean of |output - target|.

    Errors: ValueError for targets of another shape.
    """

    default_name = "mae"

    @override
    def measure(self, outputs: Tensor, targets: Tensor, from_logits: bool) -> Tensor:
        outputs = self.activated(outputs, from_logits)
        return of_samples((outputs - of_outputs_shape(outputs, targets, self.name)).abs())
