"""What is checked once, before and with a run's first batch, so that no batch pays for it."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pyconvopt.data import checks as data_checks
from pyconvopt.data.loader import ArrayLoader, Loader
from pyconvopt.layers.base import product
from pyconvopt.layers.normalization import BatchNormalization
from pyconvopt.losses import Loss
from pyconvopt.machine import processors
from pyconvopt.optimizers.groups import parameters_of
from pyconvopt.training.callbacks import Callback, LearningRateScheduler
from pyconvopt.training.labels import classes_second
from pyconvopt.training.monitors import ReduceLROnPlateau

if TYPE_CHECKING:
    from pyconvopt.training.evaluator import Evaluator

MILD_DECAY = 0.01  # what AdamW has by itself: harmless to norms, and nobody's slip


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


def require_weights(model: nn.Module, optimizer: Any) -> None:
    """Refuse an optimiser that updates no weight of the model."""
    weights = set(model.parameters())
    updated = parameters_of(optimizer)
    if weights.isdisjoint(updated):
        raise ValueError(
            f"the optimizer holds {len(updated)} parameters, none of which is the model's: make it of "
            "model.parameters(), or give its name"
        )


def warn_of_slips(model: nn.Module, optimizer: Any) -> None:
    """Warn of what trains, but worse or slower than was meant: a line each."""
    slips = (
        left_out(model, optimizer),
        decaying_norms(model, optimizer),
        too_many_threads(),
        slow_bfloat16(model),
    )
    for slip in slips:
        if slip is not None:
            warnings.warn(slip, stacklevel=4)


def left_out(model: nn.Module, optimizer: Any) -> str | None:
    """Weights to be trained that the optimiser does not hold."""
    held = set(map(id, parameters_of(optimizer)))
    lacking = [
        name
        for name, each in model.named_parameters()
        if each.requires_grad and id(each) not in held
    ]
    if not lacking:
        return None
    others = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
    return (
        f"the optimizer does not hold {lacking[0]}{others}, which stay as they are: make it of the "
        "model as it is now, or freeze them (requires_grad_(False))"
    )


def decaying_norms(model: nn.Module, optimizer: Any) -> str | None:
    """A strong weight decay that shrinks the scales of norms, which it does not help."""
    decays = {
        parameter: group["weight_decay"]
        for group in optimizer.param_groups
        if (group.get("weight_decay") or 0) > MILD_DECAY
        for parameter in group["params"]
    }
    found = [
        (name, decays[parameter])
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        for parameter in module.parameters(recurse=False)
        if parameter in decays
    ]
    if not found:
        return None
    name, decay = found[0]
    return (
        f"the weight decay of {decay:g} shrinks scale and shift of normalisation layers too, such "
        f"as {name}: spare them with no_decay=['bias', 'norm'] in the optimizer's settings, or "
        "optimizers.parameter_groups(model)"
    )


def too_many_threads() -> str | None:
    """More threads than processors this process may use: they wait for one another."""
    threads, usable = torch.get_num_threads(), processors()
    if threads <= usable:
        return None
    return (
        f"torch computes with {threads} threads on {usable} processors, which is slower than with "
        f"{usable}: torch.set_num_threads({usable})"
    )


def slow_bfloat16(model: nn.Module) -> str | None:
    """A model or autocast in bfloat16 on a processor that has to emulate it."""
    first = next((each for each in model.parameters() if each.is_floating_point()), None)
    if first is None or first.device.type != "cpu" or multiplies_bfloat16():
        return None
    if torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16:
        return "autocast to bfloat16, which this processor only emulates: float32 is faster here"
    if first.dtype == torch.bfloat16:
        return (
            "the model is in bfloat16, which this processor only emulates: model.float() is faster "
            "here"
        )
    return None


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for it; where torch does not tell, it is believed to."""
    tells = [
        getattr(torch.cpu, name, None)
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    ]
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    return not is_x86 or any(tell is None or tell() for tell in tells)


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


def averages_are_apart(callbacks: Sequence[Callback]) -> None:
    """Refuse two averages of weights that would both be in the model."""
    from pyconvopt.averaging import Averaging

    averages = [each for each in callbacks if isinstance(each, Averaging)]
    for option in ("in_validation", "at_end"):
        names = [type(each).__name__ for each in averages if getattr(each, option)]
        if len(names) > 1:
            raise ValueError(
                f"{' and '.join(names)} would both put their weights into the model: leave one out, or "
                f"give all but one {option}=False"
            )


def with_first_batch(loader: Loader, trainer: Evaluator, outputs: Tensor, targets: Tensor) -> None:
    """Refuse outputs and labels that do not fit together, every label of an array included."""
    if len(outputs) != len(targets):
        raise ValueError(
            f"the model gives {len(outputs)} outputs for {len(targets)} labels: it must keep the "
            f"batch axis first, got outputs of shape {tuple(outputs.shape)}"
        )
    loss, outputs = trainer.loss, outputs.detach()
    loss.check(outputs, targets, trainer.takes_logits)
    if isinstance(loader, ArrayLoader) and loss.integer_targets and loader.y is not None:
        labels = data_checks.class_numbers(loader.y)
        first = labels[: len(outputs)]
        if trainer.moves_for_loss:
            first = loader.y[: len(outputs)].to(torch.int64)
            first = classes_second(outputs.movedim(1, -1), first)[1]
        loss.check(outputs, first.to(outputs.device), trainer.takes_logits)
        data_checks.require_label_range(
            labels, outputs.shape[-1 if trainer.moves_for_metrics else 1]
        )


def clearer(error: ValueError, samples: int) -> ValueError:
    """The error of a forward pass, or what to do about it where a batch norm got a batch of one."""
    if samples == 1 and "more than 1 value per channel" in str(error):
        return ValueError(
            "a batch of one reached a batch norm in training, which needs at least two values a "
            "channel: choose a batch_size that leaves no single image at the end"
        )
    return error
