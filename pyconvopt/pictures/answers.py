"""What a classifier answers: how often each class is taken for each other, and its worst mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyconvopt.data import checks
from pyconvopt.metrics import ConfusionMatrix
from pyconvopt.models import Sequential
from pyconvopt.pictures.drawing import (
    GREY,
    RED,
    as_picture,
    finished,
    new_figure,
    show_picture,
)
from pyconvopt.training.arguments import whole
from pyconvopt.training.inference import predict

COLUMNS = 4  # of mistakes
NUMBERS_UP_TO = 20  # classes; of more the colours alone can be read
NAMES_UP_TO = 50
LETTERS = 18  # of a name above an image


def probabilities(model: nn.Module, x: Any) -> Tensor:
    """What the model says of each sample, (N, classes), each row adding up to 1.

    Outputs that are probabilities already stay as they are; of others, logits, the softmax is
    taken, of a single one the sigmoid, whose two classes are 0 and 1.

    Errors: ValueError for outputs of another shape, or that are NaN or infinite.

    >>> probabilities(nn.Identity(), torch.tensor([[0.0, 0.0]]))
    tensor([[0.5000, 0.5000]])
    """
    outputs = torch.from_numpy(predict(model, x)).float()
    if outputs.dim() == 1:
        outputs = outputs[:, None]
    if outputs.dim() != 2:
        raise ValueError(
            f"the model must give a row of classes for each sample, got outputs of shape "
            f"{tuple(outputs.shape)}"
        )
    checks.require_finite(outputs, "model's outputs")
    in_range = bool(((outputs >= 0) & (outputs <= 1)).all())
    if outputs.shape[1] == 1:
        positive = outputs if in_range else outputs.sigmoid()
        return torch.cat([1 - positive, positive], dim=1)
    sums = outputs.sum(dim=1)
    is_distribution = in_range and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)
    return outputs if is_distribution else outputs.softmax(dim=1)


def class_numbers(labels: Any, what: str) -> Tensor:
    """Class numbers (N,) from numbers, or from one row a sample: the largest entry's place.

    Of single probabilities those above a half are class 1.

    >>> class_numbers([[0.2], [0.7]], 'predictions')
    tensor([0, 1])
    """
    values = checks.as_tensor(labels, what).cpu()
    checks.require_samples(values, what)
    if values.dim() == 2 and values.shape[1] > 1:
        return values.argmax(dim=1)
    if values.is_floating_point() and bool(((values >= 0) & (values <= 1)).all()):
        values = values > 0.5
    numbers = checks.class_numbers(values)
    if numbers.dim() != 1:
        raise ValueError(
            f"the {what} must be class numbers (N,) or rows (N, classes), got shape "
            f"{tuple(values.shape)}"
        )
    return numbers


def width_of(labels: Any) -> int:
    """How many classes rows of labels or predictions tell of; 0 for class numbers."""
    shape = checks.as_tensor(labels, "labels").shape
    return shape[1] if len(shape) == 2 and shape[1] > 1 else 0


def names_for(class_names: Sequence[str] | None, classes: int) -> list[str]:
    """The classes' names; their numbers where none are given."""
    if class_names is None:
        return [str(number) for number in range(classes)]
    if len(class_names) != classes:
        raise ValueError(f"class_names must name {classes} classes, got {len(class_names)} names")
    return [str(name) for name in class_names]


def confusion_matrix(
    y_true: Any,
    y_pred: Any,
    class_names: Sequence[str] | None = None,
    path: str | Path | None = None,
) -> Any:
    """How often each class was taken for each other: the counts, coloured by the share of the row.

    Args: y_true and y_pred (class numbers (N,), or what `predict` gives: rows (N, classes), or of
    two classes one probability each), class_names (None: numbers), path (None: not written).

    A row is a true class, a column what was said; the diagonal is right. Of more than twenty
    classes the colours are shown without the counts. `metrics.ConfusionMatrix` gives the numbers.

    Errors: ValueError for labels and predictions that are not as many, that lie outside the
    classes, or names of another number; ImportError naming the extra if matplotlib is missing.

    >>> figure = confusion_matrix([0, 0, 1, 1], [0, 1, 1, 1], ['cat', 'dog'])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['1', '1', '0', '2']
    >>> figure.axes[0].get_title()
    'accuracy 0.7500 of 4 samples'
    """
    truth, said = class_numbers(y_true, "true labels"), class_numbers(y_pred, "predictions")
    if len(truth) != len(said):
        raise ValueError(
            f"there must be a prediction for each label: got {len(truth)} labels and {len(said)} "
            "predictions"
        )
    least = len(class_names) if class_names is not None else int(max(truth.max(), said.max())) + 1
    classes = max(least, width_of(y_true), width_of(y_pred), 2)
    names = names_for(class_names, classes)
    for numbers in (truth, said):
        checks.require_label_range(numbers, classes)
    metric = ConfusionMatrix()
    metric.update(torch.nn.functional.one_hot(said, classes).float(), truth)
    return finished(drawn_matrix(metric.matrix, names), path)


def drawn_matrix(matrix: Tensor, names: list[str]) -> Any:
    """The figure: rows the true class, columns the one said."""
    classes = len(names)
    shares = matrix / matrix.sum(dim=1, keepdim=True).clamp(min=1)
    side = min(max(0.62 * classes, 2.5), 12)
    figure = new_figure(side + 2.2, side + 1.2, "drawing a confusion matrix")
    axes = figure.subplots()
    drawn = axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(drawn, ax=axes, shrink=0.8, label="share of the true class")
    if classes <= NUMBERS_UP_TO:
        size = 9 if int(matrix.max()) < 10_000 else 7
        for row in range(classes):
            for column in range(classes):
                axes.text(
                    column,
                    row,
                    str(int(matrix[row, column])),
                    ha="center",
                    va="center",
                    fontsize=size,
                    color=ink(float(shares[row, column]), int(matrix[row, column])),
                )
    if classes <= NAMES_UP_TO:
        small = {} if classes <= NUMBERS_UP_TO else {"fontsize": 7}
        axes.set_yticks(range(classes), names, **small)
        is_long = max(map(len, names)) > 3
        turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if is_long else {}
        axes.set_xticks(range(classes), names, **turned, **small)
    right, total = int(matrix.diagonal().sum()), int(matrix.sum())
    axes.set_title(f"accuracy {right / total:.4f} of {total:,} samples")
    axes.set(xlabel="said", ylabel="true class")
    return figure


def ink(share: float, count: int) -> str:
    """The colour of a number on its field: light on dark, and faint for none."""
    return "white" if share > 0.5 else "#1f2937" if count else "#c3c9d1"


def mistakes(
    model: nn.Module,
    x: Any,
    y: Any,
    count: int = 16,
    class_names: Sequence[str] | None = None,
    path: str | Path | None = None,
) -> Any:
    """The wrong answers the model was surest of: image, class said with its probability, true class.

    Args: model (outputs: probabilities or logits), x and y (images as the model takes them; labels
    as class numbers or one-hot), count (16: the most shown), class_names (None: numbers), path
    (None: not written).

    Below each image stands its place in x. Wrong labels and doubtful images come to light here.

    Errors: ValueError for images that cannot be shown, labels out of range or not as many;
    ImportError naming the extra if matplotlib is missing.

    >>> class Bright(nn.Module):
    ...     def forward(self, x):
    ...         return torch.stack([1 - x.mean((1, 2, 3)), x.mean((1, 2, 3))], dim=1)
    >>> x = torch.tensor([0.1, 0.9, 0.7])[:, None, None, None].expand(3, 1, 2, 2)
    >>> figure = mistakes(Bright(), x, [0, 0, 0])
    >>> [axes.get_title() for axes in figure.axes]
    ['said 1: 90.0 %\\ntrue 0', 'said 1: 70.0 %\\ntrue 0']
    """
    whole("count", count)
    images = checks.as_tensor(x, "images")
    if images.dim() not in (3, 4):
        raise ValueError(f"mistakes are shown as images, got x of shape {tuple(images.shape)}")
    truth = class_numbers(y, "labels")
    checks.require_same_length(images, truth)
    answers = probabilities(model, images)
    classes = answers.shape[1]
    checks.require_label_range(truth, classes)
    names = names_for(class_names, classes)
    sure, said = answers.max(dim=1)
    wrong = (said != truth).nonzero()[:, 0]
    # Stable: of those as sure the first in x comes first.
    worst = wrong[sure[wrong].argsort(descending=True, stable=True)][:count].tolist()
    short = [name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…" for name in names]
    captions = [
        (
            f"said {short[said[place]]}: {100 * float(sure[place]):.1f} %",
            f"true {short[truth[place]]}",
        )
        for place in worst
    ]
    pictures = [as_picture(images[place], isinstance(model, Sequential)) for place in worst]
    title = f"{len(wrong):,} mistakes among {len(truth):,}"
    if len(worst) < len(wrong):
        title += f", the {len(worst)} most confident"
    return finished(drawn_mistakes(title, worst, pictures, captions), path)


def drawn_mistakes(
    title: str, places: list[int], pictures: list[Any], captions: list[tuple[str, str]]
) -> Any:
    """The figure: a panel for each mistake, none if there is none."""
    columns = min(COLUMNS, max(len(places), 1))
    rows = -(-len(places) // columns)
    figure = new_figure(max(2.1 * columns, 4.2), 2.6 * rows + 0.5, "drawing mistakes")
    figure.suptitle(title)
    panels = figure.subplots(rows, columns, squeeze=False).flatten() if places else []
    for axes, place, picture, caption in zip(panels, places, pictures, captions, strict=False):
        show_picture(axes, picture)
        axes.set_title("\n".join(caption), fontsize=9, color=RED)
        axes.set_xlabel(f"x[{place}]", fontsize=8, color=GREY)
    for axes in panels[len(places) :]:
        axes.remove()
    return figure
