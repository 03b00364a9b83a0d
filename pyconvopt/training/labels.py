"""Labels as a loss wants them, from the shapes and types in which people have them."""

from __future__ import annotations

import torch
from torch import Tensor

from pyconvopt.losses import Loss, is_soft


def loss_targets(loss: Loss, y: Tensor, outputs: Tensor, dtype: torch.dtype) -> Tensor:
    """Class numbers as int64 (N,), a last axis of one dropped; or floats (soft labels too).

    >>> from pyconvopt import losses
    >>> loss_targets(losses.get('mse'), torch.tensor([1, 2]), torch.zeros(2, 1), torch.float32)
    tensor([[1.],
            [2.]])
    """
    wants_integers = loss.integer_targets
    if wants_integers is None:
        wants_integers = not y.is_floating_point()
    of_places = y.dim() > 2 and y.is_floating_point() and y.shape == outputs.shape
    if wants_integers and not (is_soft(y, outputs) or of_places):
        one_column = y.dim() == outputs.dim() == 2 and y.shape[1] == 1
        return (y[:, 0] if one_column else y).to(torch.int64)
    one_output = y.dim() + 1 == outputs.dim() and outputs.shape[-1] == 1
    return (y[..., None] if one_output else y).to(dtype)


def classes_second(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """A Sequential's outputs (N, ..., classes) and their targets, the classes moved to axis 1.

    Class numbers (N, ..., 1) lose that last axis.

    >>> outputs, targets = torch.zeros(2, 5, 4, 3), torch.zeros(2, 5, 4, 1).long()
    >>> [tuple(each.shape) for each in classes_second(outputs, targets)]
    [(2, 3, 5, 4), (2, 5, 4)]
    """
    if outputs.dim() < 3:
        return outputs, targets
    if targets.dim() == outputs.dim():
        numbers = not targets.is_floating_point() and outputs.shape[-1] > 1
        one_column = numbers and targets.shape[-1] == 1
        targets = targets[..., 0] if one_column else targets.movedim(-1, 1)
    return outputs.movedim(-1, 1), targets
