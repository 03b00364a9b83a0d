"""Learning curves as a picture: each number of the run over the epochs, train beside held-out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyconvopt.extras import require
from pyconvopt.training.history import History

TRAIN_COLOUR, HELD_OUT_COLOUR = "#2a6f97", "#d1495b"


def draw(axes: Any, history: History, name: str, held_out: str) -> None:
    """One panel: a number in training and on held-out data, the last values written beside."""
    epochs = [epoch + 1 for epoch in history.epoch]
    for key, label, colour, style in (
        (name, "train", TRAIN_COLOUR, "--"),
        (f"val_{name}", held_out, HELD_OUT_COLOUR, "-"),
    ):
        values = history.history.get(key)
        if values:
            text = f"{label}: {values[-1]:.4f}"
            axes.plot(epochs, values, style, marker="o", markersize=4, color=colour, label=text)
    axes.set_title(name.replace("_", " "))
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, title="last epoch")


def plot_curves(
    history: History, path: str | Path, title: str = "", held_out: str = "validation"
) -> None:
    """Write the curves of a run as PNG: a panel for the loss and one for each metric.

    Args: history, path, title (none), held_out (what the validation data are called).

    Errors: ImportError naming the extra if matplotlib is missing.
    """
    figure_module = require("matplotlib.figure", "drawing learning curves")
    names = [name for name in history.history if not name.startswith("val_")]
    # A bare Figure draws with Agg and leaves pyplot's global state alone.
    figure = figure_module.Figure(figsize=(5 * len(names), 3.8), dpi=120, layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        draw(axes, history, name, held_out)
    if title:
        figure.suptitle(title)
    figure.savefig(path, format="png")
