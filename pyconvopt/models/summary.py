"""The table that `summary()` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pyconvopt import regularizers
from pyconvopt.layers.base import show

if TYPE_CHECKING:
    from pyconvopt.models.sequential import Sequential


def count(number: int | None) -> str:
    """A number with thousands marked, ? for an unknown one."""
    return "?" if number is None else f"{number:,}"


def table(model: Sequential) -> str:
    """Layers with output shape, parameters and FLOPs a sample, and the totals.

    A multiplication and an addition count as two FLOPs.
    """
    head = ("Layer (type)", "Output shape", "Param #", "FLOPs a sample")
    rows: list[tuple[str, ...]] = []
    total_flops: int | None = 0
    for layer in model.layers:
        flops = layer.flops() if layer.built else None
        total_flops = None if flops is None or total_flops is None else total_flops + flops
        rows.append(
            (
                f"{layer.name} ({type(layer).__name__})",
                show(layer.output_shape) if layer.output_shape else "?",
                count(layer.count_params()) if layer.built else "0 (unbuilt)",
                count(flops),
            )
        )
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(4)]

    def rule(left: str, joint: str, right: str) -> str:
        return left + joint.join("─" * (width + 2) for width in widths) + right

    def line(row: tuple[str, ...]) -> str:
        texts = [f"{text:<{width}}" for text, width in zip(row[:2], widths[:2], strict=True)]
        figures = [f"{text:>{width}}" for text, width in zip(row[2:], widths[2:], strict=True)]
        return "│ " + " │ ".join(texts + figures) + " │"

    with torch.enable_grad():  # without it no view of a weight requires a gradient
        weights = [view for layer in model.layers for _, view in layer.all_weights()]
    trainable = sum(view.numel() for view in weights if view.requires_grad)
    total = sum(view.numel() for view in weights)
    size = sum(view.numel() * view.element_size() for view in weights)
    return "\n".join(
        (
            f"Model: {model.name}",
            rule("┌", "┬", "┐"),
            line(head),
            rule("├", "┼", "┤"),
            *(line(row) for row in rows),
            rule("└", "┴", "┘"),
            f"Total params: {total:,} ({size / 1024:,.2f} KiB)",
            f"Trainable params: {trainable:,}",
            f"Non-trainable params: {total - trainable:,}",
            f"FLOPs a sample: {count(total_flops)}",
            *sparse_weights(model),
        )
    )


def sparse_weights(model: Sequential) -> list[str]:
    """One line on the weights that are 0, for a model with a regulariser that makes them so."""
    aims = any(
        isinstance(getattr(term, "regularizer", None), regularizers.ProximalL1)
        for term in regularizers.terms(model)
    )
    return [f"Weights that are 0: {regularizers.sparsity(model):.1%}"] if aims else []
