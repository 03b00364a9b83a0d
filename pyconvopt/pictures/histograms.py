"""How a model's weights are distributed, and with a batch the loss's gradients by them.

The counts are on a logarithmic scale: the few large values, which matter for steps and for
rounding, stay visible beside the many small ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyconvopt.attaching import matching
from pyconvopt.data import checks
from pyconvopt.pictures.drawing import (
    BLUE,
    RED,
    finished,
    new_figure,
    plain,
    some_of,
    spread,
)
from pyconvopt.training.arguments import whole

BINS = 60
COLUMNS = 3  # of weights without gradients


def gradients(model: nn.Module, x: Any, y: Any, loss: Any = None) -> dict[str, Tensor]:
    """The loss's gradients by the model's trainable parameters, for one batch, by name.

    The model runs once in training mode; its gradients, buffers and modes stay as they are. `loss`
    (None: what the model was compiled with, else 'cross_entropy').

    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(model.weight, 2.0)
    >>> gradients(model, [[3.0]], [[0.0]], loss='mse')  # d/dw (3w)² = 18 w
    {'weight': tensor([[36.]])}
    """
    from pyconvopt.diagnostics import loss_of, training
    from pyconvopt.explanation import state_kept
    from pyconvopt.training.inference import place

    device, dtype = place(model)
    inputs = checks.as_tensor(x, "images").to(device, dtype)
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    if not trained:
        raise ValueError("the model has no weights to train, so there are no gradients")
    with state_kept(model), training(model):
        value = loss_of(model, inputs, checks.as_tensor(y, "labels"), loss)
        found = torch.autograd.grad(value, list(trained.values()), allow_unused=True)
    return {name: each for name, each in zip(trained, found, strict=True) if each is not None}


def histograms(
    model: nn.Module,
    x: Any = None,
    y: Any = None,
    path: str | Path | None = None,
    *,
    loss: Any = None,
    pattern: str | None = None,
    most: int = 12,
) -> Any:
    """Histograms of the weights, and with a batch (x, y) of their gradients beside them.

    Args: model, x and y (None; a batch and its labels, a few hundred tell enough), path (None: not
    written), loss (None: what the model was compiled with, else 'cross_entropy'), pattern (which of
    `named_parameters()`, such as '*bias'; None: those of two axes or more, so neither biases nor batch
    norm's), most (12: parameters shown, spread over the model).

    Errors: ValueError for a pattern that no parameter meets, x without y, or labels that do not fit
    the model; ImportError naming the extra if matplotlib is missing.

    >>> figure = histograms(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))
    >>> [axes.get_title().split(chr(10))[0] for axes in figure.axes]
    ['0.weight', '1.weight']
    """
    whole("most", most)
    if (x is None) != (y is None):
        raise ValueError("gradients need both x and y: give the batch with its labels, or neither")
    if not getattr(model, "built", True):
        raise ValueError("the model has no weights yet: call build() or fit() first")
    parameters = dict(model.named_parameters())
    if pattern is None:
        pattern = "*"
        parameters = {
            name: each for name, each in parameters.items() if each.dim() > 1
        } or parameters
    names = matching(list(parameters), pattern, "parameter")
    shown = spread(names, most)
    found = None if x is None else gradients(model, x, y, loss)
    columns = min(COLUMNS, len(shown)) if found is None else 2
    rows = len(shown) if found is not None else -(-len(shown) // columns)
    figure = new_figure(max(3.6 * columns, 4.5), 1.9 * rows + 0.5, "drawing histograms")
    title = some_of(len(shown), len(names), "parameters")
    figure.suptitle(title if found is None else f"{title}, and the loss's gradients by them")
    panels = iter(range(1, rows * columns + 1))
    for name in shown:
        draw(figure.add_subplot(rows, columns, next(panels)), name, parameters[name], BLUE)
        if found is not None:
            axes = figure.add_subplot(rows, columns, next(panels))
            draw(axes, f"gradient of {name}", found.get(name), RED)
    return finished(figure, path)


def draw(axes: Any, name: str, tensor: Tensor | None, colour: str) -> None:
    """One histogram, with the mean and standard deviation, and what is no number."""
    values = np.zeros(0) if tensor is None else tensor.detach().cpu().double().flatten().numpy()
    finite = values[np.isfinite(values)]
    lost = values.size - finite.size
    if not finite.size:
        note = "none: not part of the loss" if tensor is None else f"no numbers: {lost} not finite"
        axes.set_title(f"{name}\n{note}", fontsize=9)
        axes.set_axis_off()
        return
    counts, edges = np.histogram(finite, bins=BINS)
    axes.stairs(counts, edges, fill=True, color=colour, alpha=0.85)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    if edges[0] <= 0 <= edges[-1]:
        axes.axvline(0, color="#1f2937", linewidth=0.8)
    note = f"mean {finite.mean():.2g}, std {finite.std():.2g}"
    if lost:
        note += f", {lost} not finite"
    axes.set_title(f"{name}\n{note}", fontsize=9)
    axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3))
    axes.xaxis.get_major_locator().set_params(nbins=6)
    axes.xaxis.get_offset_text().set_fontsize(8)
    axes.yaxis.set_minor_formatter("")
    axes.tick_params(labelsize=8)
    plain(axes)
