"""A run over its epochs: the learning rate before it starts, and the numbers it gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyconvopt import schedules
from pyconvopt.pictures.drawing import BLUE, GREEN, RED, finished, new_figure, plain
from pyconvopt.training.arguments import whole
from pyconvopt.training.history import History

RATE = "learning_rate"


def curves(
    history: History,
    path: str | Path | None = None,
    *,
    title: str = "",
    held_out: str = "validation",
) -> Any:
    """The learning curves of a run: a panel for the loss, one for each metric, one for the rate.

    Args: history (what `fit` returned), path (None: not written), title (none), held_out (what the
    validation data are called).

    The learning rate has a panel if the history holds it: where a schedule or a callback sets it,
    or the callback `LearningRateMonitor` was there.

    Errors: ValueError for a history without an epoch; ImportError naming the extra if matplotlib
    is missing.

    >>> history = History()
    >>> history.epoch, history.history = [0, 1], {'loss': [1.0, 0.5], 'learning_rate': [0.1, 0.01]}
    >>> [panel.get_title() for panel in curves(history).axes]
    ['loss', 'learning rate']
    """
    if not history.epoch:
        raise ValueError("the history holds no epoch yet: train first")
    names = [name for name in history.history if not name.startswith("val_") and name != RATE]
    if RATE in history.history:
        names.append(RATE)
    figure = new_figure(5 * len(names), 3.8, "drawing learning curves")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        draw(axes, history, name, held_out)
    if title:
        figure.suptitle(title)
    return finished(figure, path)


def draw(axes: Any, history: History, name: str, held_out: str) -> None:
    """One panel: a number in training and on held-out data, the last values written beside."""
    for key, label, colour, style in (
        (name, "train", GREEN if name == RATE else BLUE, "--"),
        (f"val_{name}", held_out, RED, "-"),
    ):
        values = history.history.get(key)
        if values:
            text = f"{values[-1]:.3g}" if name == RATE else f"{label}: {values[-1]:.4f}"
            epochs = [epoch + 1 for epoch in history.epochs_of(key)]
            axes.plot(epochs, values, style, marker="o", markersize=4, color=colour, label=text)
    axes.set_title(name.replace("_", " "))
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if name == RATE:
        axes.set_ylim(bottom=0)
    plain(axes)
    axes.legend(frameon=False, title="last epoch")


def schedule(
    schedule: Any,
    steps_per_epoch: int,
    epochs: int,
    path: str | Path | None = None,
    *,
    title: str = "",
) -> Any:
    """The learning rate of a run to come, over its steps (below) and epochs (above).

    Args: schedule (what `Trainer` takes: an object, a number, a function of the step), steps_per_epoch
    (updates, so batches over `accumulate`), epochs, path (None: not written), title (none).

    What a schedule counts, steps, epochs or shares of the run, is put in steps as `fit` does.

    Errors: ValueError without a schedule, or for no steps or epochs; ImportError naming the extra
    if matplotlib is missing.

    >>> figure = schedule(schedules.Cosine(0.1, 1).over_run(), steps_per_epoch=100, epochs=5)
    >>> rates = figure.axes[0].lines[0].get_ydata()
    >>> len(rates), float(rates[0]), float(rates[-1])
    (501, 0.1, 0.0)
    """
    from pyconvopt.schedules.adapters import drawn

    whole("steps_per_epoch", steps_per_epoch)
    rate = schedules.for_run(schedules.get(schedule), steps_per_epoch, whole("epochs", epochs))
    if rate is None:
        raise ValueError("there is no schedule to draw: the learning rate is the optimiser's")
    # Whole steps alone are trained with.
    figure = drawn(lambda step: float(rate(int(step))), steps_per_epoch * epochs, "step")
    axes = figure.axes[0]
    above = axes.secondary_xaxis(
        "top", functions=(lambda x: x / steps_per_epoch, lambda x: x * steps_per_epoch)
    )
    above.set_xlabel("epoch")
    if title:
        figure.suptitle(title)
    return finished(figure, path)
