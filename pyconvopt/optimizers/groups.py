"""Which weights decay: parameter groups of a model, biases and norms apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from pyconvopt.attaching import parameters_matching


def parameter_groups(
    model: nn.Module,
    weight_decay: float | None = None,
    no_decay_on: str | Sequence[str] = ("bias", "norm"),
) -> list[dict[str, Any]]:
    """Parameter groups for any optimiser: weights that decay, and those that do not.

    Args:
        model: its trainable parameters are sorted; a shared one is counted once.
        weight_decay: of the first group; None leaves it to the optimiser's own setting.
        no_decay_on: 'bias' (parameters of that name), 'norm' (all parameters of modules with
            "norm" in their class's name), or shell patterns over `model.named_parameters()`; one, or several.

    Errors: ValueError for a pattern that meets no parameter, or a negative weight_decay.

    >>> model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8))
    >>> for group in parameter_groups(model, weight_decay=0.1):
    ...     print(group["weight_decay"], [tuple(p.shape) for p in group["params"]])
    0.1 [(8, 1, 3, 3)]
    0.0 [(8,), (8,), (8,)]
    """
    if weight_decay is not None and not weight_decay >= 0:
        raise ValueError(f"weight_decay must be 0 or more, got {weight_decay}")
    no_decay_on = (no_decay_on,) if isinstance(no_decay_on, str) else no_decay_on
    patterns = [entry for entry in no_decay_on if entry not in ("bias", "norm")]
    met = {name for pattern in patterns for name in parameters_matching(model, pattern)}
    decaying: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        owner, _, own_name = name.rpartition(".")
        kind = type(model.get_submodule(owner)).__name__.lower()
        spared = (
            ("bias" in no_decay_on and own_name == "bias")
            or ("norm" in no_decay_on and "norm" in kind)
            or name in met
        )
        (others if spared else decaying).append(parameter)
    first = {} if weight_decay is None else {"weight_decay": weight_decay}
    groups = [{"params": decaying, **first}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def parameters_of(optimizer: Any) -> list[Tensor]:
    """The parameters of all groups of an optimiser, as they are now."""
    return [p for group in optimizer.param_groups for p in group["params"]]
