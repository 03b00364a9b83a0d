"""What is checked once, before and with a run's first batch, so that no batch pays for it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pyconvopt.data import checks as data_checks
from pyconvopt.data.loader import ArrayLoader, Loader
from pyconvopt.layers.base import product
from pyconvopt.layers.normalization import BatchNormalization
from pyconvopt.losses import Loss
from pyconvopt.training.callbacks import Callback, LearningRateScheduler
from pyconvopt.training.monitors import ReduceLROnPlateau


def before_training(model: nn.Module, loader: Loader, loss: Loss) -> None:
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
    """A batch norm behind Dense sees one value a channel in a batch of one: no variance.

    On maps it has one image's pixels: allowed, and a warning, because they stand for all images.
    """
    if loader.last_batch != 1:
        return
    norms = [
        layer
        for layer in model.modules()
        if (isinstance(layer, BatchNormalization) and layer.is_trainable)
        or (isinstance(layer, _BatchNorm) and layer.training)
    ]
    ending = f"{loader.samples} images in batches of {loader.batch_size} end in a batch of one"
    for layer in norms:
        if isinstance(layer, BatchNormalization) and (
            product((layer.input_shape or (None, None, None))[1:-1]) == 1
        ):
            raise ValueError(
                f"{ending}, and {layer.name} needs at least two values a channel in training: "
                "choose another batch_size, or leave one image out"
            )
    if norms:
        warnings.warn(
            f"{ending}: batch norm will take that image's statistics for those of all; choose "
            "another batch_size, or leave one image out",
            stacklevel=5,
        )


def rate_has_one_master(schedule: Callable | None, callbacks: Sequence[Callback]) -> None:
    """Warn of a callback that sets a learning rate the schedule sets again at once."""
    for callback in callbacks:
        if schedule is not None and isinstance(
            callback, (LearningRateScheduler, ReduceLROnPlateau)
        ):
            warnings.warn(
                f"the schedule sets the learning rate of every step, so {type(callback).__name__} "
                "has no effect: leave one of them out",
                stacklevel=4,
            )


def with_first_batch(
    loader: Loader, loss: Loss, outputs: Tensor, targets: Tensor, logits: bool
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


def clearer(error: ValueError, samples: int) -> ValueError:
    """The error of a forward pass, or what to do about it where a batch norm got a batch of one."""
    if samples == 1 and "more than 1 value per channel" in str(error):
        return ValueError(
            "a batch of one reached a batch norm in training, which needs at least two values a "
            "channel: choose a batch_size that leaves no single image at the end"
        )
    return error
