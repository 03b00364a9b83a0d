"""What goes wrong inside a network: saturated units, dead ReLUs, gradients that vanish.

A sigmoid or tanh near the end of its range passes hardly any gradient back; a ReLU that is 0 for
every input passes none and does not recover; and a gradient that shrinks from layer to layer
leaves the first ones untrained.

Sources: Glorot and Bengio 2010 (saturation, gradients by layer); Lu et al. 2020, "Dying ReLU and
Initialization".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as torch_functional
from torch import Tensor, nn

from pyconvopt import activations as functions
from pyconvopt import functional, layers
from pyconvopt.data import checks
from pyconvopt.explanation import state_kept

COLUMNS = ("layer", "type", "mean", "std", "saturated", "dead", "gradient", "note")

# Activations whose range ends on both sides, with those ends: functions, and classes of modules,
# which stand for their subclasses too.
RANGES: dict[Any, tuple[float, float]] = {
    functions.sigmoid: (0.0, 1.0),
    torch.sigmoid: (0.0, 1.0),
    torch_functional.sigmoid: (0.0, 1.0),
    torch_functional.hardsigmoid: (0.0, 1.0),
    functions.tanh: (-1.0, 1.0),
    functional.tanh: (-1.0, 1.0),
    torch.tanh: (-1.0, 1.0),
    torch_functional.tanh: (-1.0, 1.0),
    torch_functional.hardtanh: (-1.0, 1.0),
    nn.Sigmoid: (0.0, 1.0),
    nn.Hardsigmoid: (0.0, 1.0),
    nn.Tanh: (-1.0, 1.0),
    nn.Hardtanh: (-1.0, 1.0),
}

# Activations that are flat at 0 below.
RECTIFIERS = (
    functions.relu,
    functional.relu,
    torch.relu,
    torch_functional.relu,
    functions.relu6,
    torch_functional.relu6,
    nn.ReLU,
    nn.ReLU6,
    layers.ReLU,
)

# From which share on a layer's note says so, and below which share of the largest gradient.
MANY = 0.5
VANISHING = 1e-3

Row = tuple[nn.Module, dict[str, Any]]  # a layer, and what one call of it showed


class Report:
    """The table that `activations` gives: `print` it, or read `.rows`."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __str__(self) -> str:
        lines = [COLUMNS, *(tuple(cell(name, row[name]) for name in COLUMNS) for row in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
        return "\n".join(
            "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )

    __repr__ = __str__


def cell(name: str, value: Any) -> str:
    """A value as the table shows it: shares in per cent, '-' for what does not apply."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:.1%}" if name in ("saturated", "dead") else f"{value:.3g}"


def activations(
    model: nn.Module, x: Any, y: Any = None, loss: Any = None, limit: float = 0.95
) -> Report:
    """Outputs of every layer for a batch of inputs, and with labels the gradients of its weights.

    Args:
        model: any nn.Module. It is run once in training mode; buffers, gradients, modes and
            torch's random state are afterwards as they were.
        x: some inputs, as the model takes them; a few hundred tell enough.
        y: their labels, for the gradients.
        loss: as in `training.Trainer` (None: what the model was compiled with, else
            'cross_entropy').
        limit: a sigmoid or tanh counts as saturated beyond this share (0.95) of the way from the
            middle of its range to an end.

    Returns:
        A table to print, one row a layer in the order they run (a layer called again has a row for
        each call, `relu (call 2)`; the gradient stands in its first), with `.rows`: dicts with the keys
        ``layer, type, mean, std, saturated, dead, gradient, note``. mean and std are those of the
        layer's outputs, saturated is a share of the outputs, dead the share of units (channels of
        a map) that are 0 for every input, gradient the norm of the loss's gradient by the
        layer's own weights; None where a column does not apply. The note says 'saturated' or
        'dead' from half on, 'vanishing' for a gradient under a thousandth of the largest, 'not
        finite' for NaN or infinity.

    Errors: ValueError for labels that do not fit the model.

    >>> model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU())
    >>> _ = nn.init.constant_(model[0].weight[1], -1.0), nn.init.constant_(model[0].weight[0], 1.0)
    >>> activations(model, [[1.0], [2.0]]).rows[1]['dead']
    0.5
    """
    from pyconvopt.training.inference import place

    device, dtype = place(model)
    inputs = checks.as_tensor(x, "images").to(device, dtype)
    if not getattr(model, "built", True):
        model.build(tuple(inputs.shape))  # type: ignore[operator]
    rows: list[Row] = []
    with state_kept(model), training(model), watched(model, rows, limit):
        if y is None:
            with torch.no_grad():
                model(inputs)
        else:
            value = loss_of(model, inputs, checks.as_tensor(y, "labels"), loss)
            add_gradients(rows, value)
    found = [each for _, each in rows]
    add_notes(found)
    return Report(found)


@contextmanager
def training(model: nn.Module) -> Iterator[None]:
    """Training mode, and afterwards each module in the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def watched(model: nn.Module, rows: list[Row], limit: float) -> Iterator[None]:
    """While open, every layer that runs leaves its row. A hooked layer is joined with no other."""
    names = {module: name for name, module in model.named_modules()}

    def note(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point():
            shown = module.activation(output) if kwargs.get("logits") else output
            call = sum(each is module for each, _ in rows) + 1
            name = names[module] + (f" (call {call})" if call > 1 else "")
            rows.append((module, row(name, module, shown.detach(), limit)))

    handles = [
        module.register_forward_hook(note, with_kwargs=True)
        for module in model.modules()
        if module is not model
        and (isinstance(module, layers.Layer) or not any(True for _ in module.children()))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def meets(activation: Any, known: Iterable[Any]) -> Any:
    """The one of some functions and classes that an activation is, or is an object of."""
    for each in known:
        if each is activation or (isinstance(each, type) and isinstance(activation, each)):
            return each
    return None


def row(name: str, module: nn.Module, output: Tensor, limit: float) -> dict[str, Any]:
    """What one layer's output shows."""
    last = getattr(module, "activation", None)
    if last is None or last is functions.linear:
        last = module
    saturated = dead = None
    if meets(last, RECTIFIERS) is not None and not getattr(last, "negative_slope", 0):
        channel = functions.channel_axis(output) % output.dim()
        others = [axis for axis in range(output.dim()) if axis != channel]
        dead = float((output.amax(dim=others) <= 0).float().mean())
    elif (kind := meets(last, RANGES)) is not None:
        low, high = RANGES[kind]
        if isinstance(last, nn.Hardtanh):
            low, high = last.min_val, last.max_val
        saturated = float((((2 * output - low - high) / (high - low)).abs() > limit).float().mean())
    deviation, mean = torch.std_mean(output, correction=0)
    numbers = (float(mean), float(deviation), saturated, dead, None, "")
    return dict(zip(COLUMNS, (name, type(module).__name__, *numbers), strict=True))


def loss_of(model: nn.Module, x: Tensor, y: Tensor, loss: Any) -> Tensor:
    """The loss of the batch, as training would compute it."""
    from pyconvopt.training import Trainer

    compiled = getattr(model, "_trainer", None)
    if loss is None:
        loss = "cross_entropy" if compiled is None else compiled.loss
    trainer = Trainer(model, loss=loss)
    trainer.settle()
    outputs, targets = trainer.run(x, y, None)
    trainer.loss.check(outputs.detach(), targets, trainer.takes_logits)
    return trainer.total_loss(outputs, targets)


def add_gradients(rows: list[Row], loss: Tensor) -> None:
    """The norm of the loss's gradient by each layer's own weights."""
    first = dict(reversed(rows))  # of the calls of a layer, the first
    owned = [
        (module, parameter)
        for module in first
        for parameter in module.parameters()
        if parameter.requires_grad
    ]
    if not owned:
        return
    gradients = torch.autograd.grad(loss, [each for _, each in owned], allow_unused=True)
    squares: dict[nn.Module, float] = {}
    for (module, _), gradient in zip(owned, gradients, strict=True):
        square = 0.0 if gradient is None else float(gradient.double().square().sum())
        squares[module] = squares.get(module, 0.0) + square
    for module, square in squares.items():
        first[module]["gradient"] = square**0.5


def add_notes(rows: list[dict[str, Any]]) -> None:
    """A word on each layer that has one of the troubles."""
    largest = max((each["gradient"] for each in rows if each["gradient"] is not None), default=0.0)
    for each in rows:
        found = [word for word in ("saturated", "dead") if (each[word] or 0) >= MANY]
        gradient = each["gradient"]
        numbers = torch.tensor([each["mean"], each["std"], gradient or 0.0])
        if not bool(torch.isfinite(numbers).all()):
            found.append("not finite")
        elif gradient is not None and gradient < VANISHING * largest:
            found.append("vanishing")
        each["note"] = ", ".join(found)
