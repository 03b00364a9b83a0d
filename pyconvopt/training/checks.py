"""What is checked once, before and with a run's first batch, so that no batch pays for it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils.data import DataLoader

from pyconvopt.data import checks as data_checks
from pyconvopt.data.loader import ArrayLoader
from pyconvopt.layers.base import product
from pyconvopt.layers.normalization import BatchNormalization
from pyconvopt.losses import Loss


def before_training(model: nn.Module, loader: ArrayLoader | DataLoader, loss: Loss) -> None:
    """Refuse data that cannot be trained on: NaN, labels that are no classes, batches of one.

    Only arrays are looked through; a DataLoader's samples are its own business.
    """
    if not isinstance(loader, ArrayLoader):
        return
    data_checks.require_finite(loader.x, "images")
    require_labels(loader, loss)
    require_batches_for_batch_norm(model, loader)


def require_labels(loader: ArrayLoader, loss: Loss) -> None:
    """Refuse missing labels, and labels of a kind the loss cannot use."""
    if loader.y is None:
        raise ValueError("training and evaluation need labels: give data as (images, labels)")
    if loss.integer_targets:
        data_checks.class_numbers(loader.y)
    else:
        data_checks.require_finite(loader.y, "labels")


def require_batches_for_batch_norm(model: nn.Module, loader: ArrayLoader) -> None:
    """A batch norm behind Dense sees one value a channel in a batch of one: no variance."""
    if loader.last_batch != 1:
        return
    for layer in model.modules():
        if not isinstance(layer, BatchNormalization) or not layer.is_trainable:
            continue
        if product((layer.input_shape or (None, None, None))[1:-1]) == 1:
            raise ValueError(
                f"{loader.samples} images in batches of {loader.batch_size} end in a batch of "
                f"one, and {layer.name} needs at least two values a channel in training: choose "
                "another batch_size, or leave one image out"
            )


def with_first_batch(
    loader: ArrayLoader | DataLoader, loss: Loss, outputs: Tensor, targets: Tensor, logits: bool
) -> None:
    """Refuse outputs and labels that do not fit together, every label of an array included."""
    if len(outputs) != len(targets):
        raise ValueError(
            f"the model gives {len(outputs)} outputs for {len(targets)} labels: it must keep the "
            f"batch axis first, got outputs of shape {tuple(outputs.shape)}"
        )
    loss.check(outputs.detach(), targets, logits)
    if isinstance(loader, ArrayLoader) and loss.integer_targets and loader.y is not None:
        labels = data_checks.class_numbers(loader.y)
        loss.check(outputs.detach(), labels[: len(outputs)].to(outputs.device), logits)
        data_checks.require_label_range(labels, outputs.shape[1])
