"""Weights on samples and classes: the loss of a batch is Σ w·loss / N, Keras' mean.

Losses give the mean of a batch. The loss of each sample alone is that mean over a batch of one, which
`torch.vmap` takes for all samples at once; so every loss that is such a mean can be weighted, one of
your own too. Where each pixel or step has a label, and a weight, it counts as a sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset

from pyconvopt.data.checks import as_tensor
from pyconvopt.data.loader import ArrayLoader, Loader
from pyconvopt.losses import Loss

if TYPE_CHECKING:
    from pyconvopt.training.evaluator import Evaluator


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
    """Σ w·loss / N over a batch; weights (N,), or of each place of outputs (N, classes, ...).

    Errors: ValueError for weights of another shape, for those of places if the loss of a sample is not
    the mean over its places, and for a loss that is no mean over samples.
    """
    if not loss.is_mean:
        raise ValueError(
            "weights of samples and classes need a loss that is a mean over the samples, which one with "
            "weight=, ignore_index= or reduction='sum' is not: use class_weight in their place, or weigh "
            "within the loss"
        )
    places = outputs.shape[:1] + outputs.shape[2:]
    if weights.dim() > 1 and weights.shape == places and takes_places(loss):
        one_hot = targets.dim() == outputs.dim()
        outputs, weights = outputs.movedim(1, -1).flatten(0, -2), weights.flatten()
        targets = targets.movedim(1, -1).flatten(0, -2) if one_hot else targets.flatten()
    else:
        weights = one_a_sample(weights, len(outputs))
    return (weights * sample_losses(loss, outputs, targets, from_logits)).mean()


def takes_places(loss: Loss) -> bool:
    """Whether pixels and steps can be given to a loss as samples, (places, classes)."""
    return loss.is_of_places and not loss.takes_arrays


def one_a_sample(weights: Tensor, samples: int) -> Tensor:
    """Weights (N,), from (N, 1) too; ValueError for others, which would be spread over all samples.

    >>> one_a_sample(torch.tensor([[1.0], [2.0]]), 2)
    tensor([1., 2.])
    """
    if len(weights.shape) and len(weights) == samples == weights.numel():
        return weights.flatten()
    raise ValueError(
        f"the weights must be one a sample, ({samples},), got shape {tuple(weights.shape)}; pixels and "
        "steps may have their own where each has an output, in the losses of this library"
    )


def class_weights(
    spec: Mapping[int, float] | str | None, loader: Loader, trainer: Evaluator | None = None
) -> ClassWeights | None:
    """The weights that `class_weight` asks for: none, {class: weight}, or 'balanced'.

    Balanced is scikit-learn's: samples / (classes * samples of the class), of the training data.
    `trainer`: whose loss and model tell how labels of pixels and steps are to be read.

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
        every = labels_to_count(every, trainer)
        labels, counts = every.long().unique(return_counts=True)
        shares = len(every) / (len(labels) * counts.double())
        spec = dict(zip(labels.tolist(), shares.tolist(), strict=True))
    if not isinstance(spec, Mapping):
        raise TypeError(f"class_weight must be {{class: weight}} or 'balanced', got {spec!r}")
    return ClassWeights(spec, trainer is None or takes_places(trainer.loss))


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


def labels_to_count(every: Tensor, trainer: Evaluator | None) -> Tensor:
    """All labels in a row: of samples, or of their pixels or steps where the trainer's loss takes those.

    Errors: ValueError for labels of places of another model than a Sequential, if not class numbers.
    """
    if trainer is not None and trainer.loss.integer_targets:
        return every.flatten()
    if trainer is not None and getattr(trainer.model, "classes_last", False):
        one_hot = every.dim() == len(trainer.model.output_shape) and every.shape[-1] > 1
        return (every.argmax(dim=-1) if one_hot else every).flatten()
    labels = one_label(every)
    if labels.dim() > 1:
        raise ValueError(
            "class_weight='balanced' cannot tell the classes of labels of shape "
            f"{tuple(every.shape)}: give {{class: weight}}"
        )
    return labels


def one_label(targets: Tensor) -> Tensor:
    """Class numbers from such (N,), from (N, 1, ...), or from one-hot (N, classes, ...)."""
    if targets.dim() > 1:
        targets = targets[:, 0] if targets.shape[1] == 1 else targets.argmax(dim=1)
    return targets


class ClassWeights:
    """A weight for each class, as {class: weight}; classes that are not named have 1.

    Args: weights, of_places (True: the pixels or steps of a sample may have a label each).

    Errors: ValueError for classes that are no whole numbers >= 0, or weights that are below 0 or
    infinite.

    >>> ClassWeights({1: 3.0})(torch.zeros(3, 3), torch.tensor([0, 1, 2]))
    tensor([1., 3., 1.])
    """

    def __init__(self, weights: Mapping[int, float], of_places: bool = True) -> None:
        if not weights:
            raise ValueError("class_weight is empty; wanted {class: weight}")
        for number, weight in weights.items():
            are_numbers = isinstance(number, Real) and isinstance(weight, Real)
            if not are_numbers or number < 0 or number % 1 or not 0 <= weight < math.inf:
                raise ValueError(
                    "class_weight must map class numbers to finite weights of 0 or more, got "
                    f"{number!r}: {weight!r}"
                )
        self.of_places = of_places
        self.table = torch.ones(int(max(weights)) + 2)
        for number, weight in weights.items():
            self.table[int(number)] = float(weight)

    def __call__(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """The weight of each label: a class number, one-hot, or one 0/1 value.

        That is (N,), or one for each place of outputs (N, classes, ...); `weights`: of the samples or
        places, with which they are multiplied.
        """
        numbers = targets if targets.dim() == outputs.dim() - 1 else one_label(targets)
        if numbers.dim() > 1 and not self.of_places:
            raise ValueError(
                "class_weight needs one label a sample where the loss is not one of this library's; "
                "use sample_weight, or weigh within the loss"
            )
        numbers = numbers.long().clamp(max=len(self.table) - 1)
        found = self.table.to(targets.device)[numbers]
        if weights is None:
            return found
        weights = weights.to(found.device)
        if weights.shape == found.shape:
            return found * weights
        return found * one_a_sample(weights, len(found)).reshape(-1, *[1] * (found.dim() - 1))
