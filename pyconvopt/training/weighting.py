"""Weights on samples and classes: the loss of a batch is Σ w·loss / N, Keras' mean.

Losses give the mean of a batch. The loss of each sample alone is that mean over a batch of one, which
`torch.vmap` takes for all samples at once; so every loss can be weighted, one of your own too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset

from pyconvopt.data.checks import as_tensor
from pyconvopt.data.loader import ArrayLoader, Loader
from pyconvopt.losses import Loss


def sample_losses(loss: Loss, outputs: Tensor, targets: Tensor, from_logits: bool) -> Tensor:
    """The loss of each sample, (N,).

    >>> from pyconvopt import losses
    >>> sample_losses(losses.get('mse'), torch.zeros(2, 2), torch.tensor([[1., 1.], [3., 1.]]), False)
    tensor([1., 5.])
    """

    def of_one(output: Tensor, target: Tensor) -> Tensor:
        return loss(output[None], target[None], from_logits)

    return torch.vmap(of_one)(outputs, targets)


def weighted_loss(
    loss: Loss, outputs: Tensor, targets: Tensor, weights: Tensor, from_logits: bool
) -> Tensor:
    """Σ w·loss / N over a batch."""
    return (weights * sample_losses(loss, outputs, targets, from_logits)).mean()


def class_weights(spec: Mapping[int, float] | str | None, loader: Loader) -> ClassWeights | None:
    """The weights that `class_weight` asks for: none, {class: weight}, or 'balanced'.

    Balanced is scikit-learn's: samples / (classes * samples of the class), of the training data.

    Errors: TypeError for anything else; ValueError for data whose labels cannot be counted.
    """
    if spec is None:
        return None
    if spec == "balanced":
        every = labels_of(loader)
        if every is None:
            raise ValueError(
                "class_weight='balanced' counts the labels of arrays (x, y), of a TensorDataset or a "
                "Dataset with `targets`: of other data give {class: weight}"
            )
        labels, counts = one_label(every).long().unique(return_counts=True)
        shares = len(every) / (len(labels) * counts.double())
        return ClassWeights(dict(zip(labels.tolist(), shares.tolist(), strict=True)))
    if not isinstance(spec, Mapping):
        raise TypeError(f"class_weight must be {{class: weight}} or 'balanced', got {spec!r}")
    return ClassWeights(spec)


def labels_of(data: Any) -> Tensor | None:
    """All labels of a loader or a Dataset, where they lie together; None where they do not."""
    if isinstance(data, ArrayLoader):
        return data.y
    if isinstance(data, DataLoader):
        return labels_of(data.dataset)
    if isinstance(data, Subset):
        labels = labels_of(data.dataset)
        return None if labels is None else labels[list(data.indices)]
    if isinstance(data, TensorDataset):
        return data.tensors[1] if len(data.tensors) > 1 else None
    targets = getattr(data, "targets", None)
    if targets is None or getattr(data, "target_transform", None) is not None:
        return None
    return as_tensor(targets, "labels")


def one_label(targets: Tensor) -> Tensor:
    """Labels (N,) from class numbers, one-hot, or one 0/1 value a sample."""
    if targets.dim() > 1:
        targets = targets[:, 0] if targets.shape[1] == 1 else targets.argmax(dim=1)
    if targets.dim() > 1:
        raise ValueError("class_weight needs one label a sample; use sample_weight")
    return targets


class ClassWeights:
    """A weight for each class, as {class: weight}; classes that are not named have 1.

    Errors: ValueError for classes that are no whole numbers >= 0, or weights that are below 0 or
    infinite.

    >>> ClassWeights({1: 3.0})(torch.tensor([0, 1, 2]))
    tensor([1., 3., 1.])
    """

    def __init__(self, weights: Mapping[int, float]) -> None:
        if not weights:
            raise ValueError("class_weight is empty; wanted {class: weight}")
        for number, weight in weights.items():
            are_numbers = isinstance(number, Real) and isinstance(weight, Real)
            if not are_numbers or number < 0 or number % 1 or not 0 <= weight < math.inf:
                raise ValueError(
                    "class_weight must map class numbers to finite weights of 0 or more, got "
                    f"{number!r}: {weight!r}"
                )
        self.table = torch.ones(int(max(weights)) + 2)
        for number, weight in weights.items():
            self.table[int(number)] = float(weight)

    def __call__(self, targets: Tensor) -> Tensor:
        """The weight of each sample from its label: a class number, one-hot, or one 0/1 value."""
        numbers = one_label(targets).long().clamp(max=len(self.table) - 1)
        return self.table.to(targets.device)[numbers]
