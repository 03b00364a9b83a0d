"""Loss functions: `loss(outputs, targets) -> scalar`, the mean over the batch.

A classifier's last activation and its loss belong together: log(softmax(z)) taken in one step
never overflows and never meets log(0). So a loss says which activation it `absorbs`, and a
model that ends in that activation hands over its logits instead (`from_logits=True`).
Probabilities from elsewhere are normalised and clipped to [1e-7, 1 - 1e-7], as in Keras.

A function of your own, and torch's loss modules, are called as torch calls them:
loss(outputs, targets). Of a `Sequential` that classifies each pixel or step a function of your own
sees the arrays (N, ..., classes) that `predict` gives; modules and torch's functions, as all losses
here, have the classes on axis 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as torch_functional
from torch import Tensor, nn
from typing_extensions import override

from pyconvopt import functional, registry

EPSILON = 1e-7


def clipped(probabilities: Tensor) -> Tensor:
    """Probabilities kept off 0 and 1, where the logarithm is infinite."""
    return probabilities.clamp(EPSILON, 1 - EPSILON)


def log_probabilities(outputs: Tensor, from_logits: bool) -> Tensor:
    """log p over axis 1, from logits or from probabilities."""
    if from_logits:
        return torch.log_softmax(outputs, dim=1)
    return clipped(outputs / outputs.sum(dim=1, keepdim=True)).log()


def require_distribution(outputs: Tensor, name: str) -> None:
    """Refuse logits where probabilities are expected; their loss would be a wrong number."""
    sums = outputs.sum(dim=1)
    if bool((outputs < 0).any()) or not torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        raise ValueError(
            f"{name} wants probabilities that sum to 1 over the classes, got outputs that sum to "
            f"{float(sums.flatten()[0]):.4g}: end the model with softmax, or use from_logits=True"
        )


def require_classes(outputs: Tensor, targets: Tensor) -> None:
    """Labels must lie in 0 ... classes - 1."""
    classes = outputs.shape[1]
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise ValueError(
            f"label {wrong} is out of range: the model has {classes} outputs, so labels must lie "
            f"in 0 ... {classes - 1}"
        )


def is_soft(targets: Tensor, outputs: Tensor) -> bool:
    """Whether targets are shares of each class, (N, classes, ...), and not class numbers."""
    several = targets.dim() > 1 and targets.shape[1] > 1
    return several and targets.is_floating_point() and targets.shape == outputs.shape


def checked_smoothing(label_smoothing: float) -> None:
    """Refuse a share outside 0 ... 1."""
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must lie in 0 ... 1, got {label_smoothing}")


class Loss:
    """What the trainer asks of a loss.

    absorbs: the activation it can take in ('softmax', 'sigmoid'), or None.
    integer_targets: True for class numbers, False for real values, None for either.
    takes_arrays: of a Sequential's maps and sequences it is given arrays as `predict` gives them,
        (N, ..., classes), and labels as `fit` has them; False: both with the classes on axis 1.
    is_of_places: over places it is the mean of each one's loss, so places can be weighted.
    is_mean: of a batch it is the mean of each sample's loss, so samples can be weighted, and the
        gradients of batches be averaged.
    """

    absorbs: str | None = None
    integer_targets: ClassVar[bool | None] = False
    from_logits: bool = False
    takes_arrays: bool = False
    is_of_places: ClassVar[bool] = False
    is_mean: bool = True

    def __call__(self, outputs: Tensor, targets: Tensor, from_logits: bool = False) -> Tensor:
        """The mean loss of a batch, a scalar that gradients flow through."""
        raise NotImplementedError

    def check(self, outputs: Tensor, targets: Tensor, from_logits: bool = False) -> None:
        """Refuse shapes and values that would give an error later, or a wrong number."""
        if outputs.shape != targets.shape:
            raise ValueError(
                f"{type(self).__name__} compares outputs and targets of one shape, got outputs "
                f"{tuple(outputs.shape)} and targets {tuple(targets.shape)}"
            )


@dataclass(frozen=True)
class SparseCategoricalCrossentropy(Loss):
    """Mean of -log p[label], labels as class numbers.

    Shapes: outputs (N, classes, ...), targets (N, ...) of integers, or soft labels as floats of
    the outputs' shape, as MixUp makes them: then -Σ target · log p.
    `from_logits` (False): the outputs are logits; a model that ends in softmax needs it not.
    `label_smoothing` (0): that share of each label is spread over all classes alike, as torch's
    cross_entropy does (Szegedy et al. 2016).

    >>> loss = SparseCategoricalCrossentropy()
    >>> round(float(loss(torch.tensor([[0.25, 0.75]]), torch.tensor([1]))), 4)  # -ln 0.75
    0.2877
    """

    from_logits: bool = False
    label_smoothing: float = 0.0
    absorbs = "softmax"
    is_of_places = True
    integer_targets = True

    def __post_init__(self) -> None:
        checked_smoothing(self.label_smoothing)

    @override
    def __call__(self, outputs: Tensor, targets: Tensor, from_logits: bool = False) -> Tensor:
        # The logarithms of probabilities are logits of themselves.
        if not (from_logits or self.from_logits):
            outputs = log_probabilities(outputs, False)
            if not self.label_smoothing and not targets.is_floating_point():
                return torch_functional.nll_loss(outputs, targets)
        return functional.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing)

    @override
    def check(self, outputs: Tensor, targets: Tensor, from_logits: bool = False) -> None:
        soft = is_soft(targets, outputs)
        if outputs.dim() < 2 or not (
            soft or targets.shape == outputs.shape[:1] + outputs.shape[2:]
        ):
            raise ValueError(
                "sparse_categorical_crossentropy wants outputs (N, classes) and labels (N,), got "
                f"outputs {tuple(outputs.shape)} and labels {tuple(targets.shape)}"
                + one_hot_hint(outputs, targets)
            )
        if not soft:
            require_classes(outputs, targets)
        if not (from_logits or self.from_logits):
            require_distribution(outputs, "sparse_categorical_crossentropy")


def one_hot_hint(outputs: Tensor, targets: Tensor) -> str:
    """The likely slip behind labels of the outputs' shape."""
    if outputs.shape == targets.shape:
        return ": for one-hot labels use categorical_crossentropy"
    return ""


@dataclass(frozen=True)
class CategoricalCrossentropy(Loss):
    """Mean of -Σ target · log p, labels as one-hot rows or distributions.

    Shapes: outputs and targets (N, classes, ...).
    `label_smoothing` (0): that share of each label is spread over all classes alike.

    >>> loss = CategoricalCrossentropy()
    >>> round(float(loss(torch.tensor([[0.25, 0.75]]), torch.tensor([[0.0, 1.0]]))), 4)
    0.2877
    """

    from_logits: bool = False
    label_smoothing: float = 0.0
    absorbs = "softmax"
    is_of_places = True

    def __post_init__(self) -> None:
        checked_smoothing(self.label_smoothing)

    @override
    def __call__(self, outputs: Tensor, targets: Tensor, from_logits: bool = False) -> Tensor:
        if self.label_smoothing:
            uniform = self.label_smoothing / outputs.shape[1]
            targets = targets * (1 - self.label_smoothing) + uniform
        log_p = log_probabilities(outputs, from_logits or self.from_logits)
        return -(targets * log_p).sum(dim=1).mean()

    @override
    def check(self, outputs: Tensor, targets: Tensor, from_logits: bool = False) -> None:
        if outputs.shape != targets.shape:
            raise ValueError(
                "categorical_crossentropy wants one-hot labels of the outputs' shape, got outputs "
                f"{tuple(outputs.shape)} and labels {tuple(targets.shape)}: for class numbers use "
                "sparse_categorical_crossentropy"
            )
        if not (from_logits or self.from_logits):
            require_distribution(outputs, "categorical_crossentropy")


@dataclass(frozen=True)
class BinaryCrossentropy(Loss):
    """Mean of -(t · log p + (1 - t) · log(1 - p)), over all outputs.

    `label_smoothing` s (0): targets are drawn to the middle, t · (1 - s) + s / 2, as in Keras.

    >>> loss = BinaryCrossentropy()
    >>> round(float(loss(torch.tensor([[0.75]]), torch.tensor([[1.0]]))), 4)  # -ln 0.75
    0.2877
    """

    from_logits: bool = False
    label_smoothing: float = 0.0
    absorbs = "sigmoid"
    is_of_places = True

    def __post_init__(self) -> None:
        checked_smoothing(self.label_smoothing)

    @override
    def __call__(self, outputs: Tensor, targets: Tensor, from_logits: bool = False) -> Tensor:
        if self.label_smoothing:
            targets = targets * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        if from_logits or self.from_logits:
            return torch_functional.binary_cross_entropy_with_logits(outputs, targets)
        return torch_functional.binary_cross_entropy(clipped(outputs), targets)

    @override
    def check(self, outputs: Tensor, targets: Tensor, from_logits: bool = False) -> None:
        super().check(outputs, targets, from_logits)
        least, most = float(targets.min()), float(targets.max())
        if least < 0 or most > 1:
            raise ValueError(
                f"binary_crossentropy wants labels in 0 ... 1, got labels in {least:.4g} ... {most:.4g}"
            )
        low, high = float(outputs.min()), float(outputs.max())
        if not (from_logits or self.from_logits) and (low < 0 or high > 1):
            raise ValueError(
                f"binary_crossentropy wants probabilities in 0 ... 1, got outputs in {low:.4g} "
                f"... {high:.4g}: end the model with sigmoid, or use from_logits=True"
            )


@dataclass(frozen=True)
class MeanSquaredError(Loss):
    """Mean of (output - target)².

    >>> float(MeanSquaredError()(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])))
    2.0
    """

    is_of_places = True

    @override
    def __call__(self, outputs: Tensor, targets: Tensor, from_logits: bool = False) -> Tensor:
        return torch_functional.mse_loss(outputs, targets)


@dataclass(frozen=True)
class MeanAbsoluteError(Loss):
    """Mean of |output - target|.

    >>> float(MeanAbsoluteError()(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])))
    1.0
    """

    is_of_places = True

    @override
    def __call__(self, outputs: Tensor, targets: Tensor, from_logits: bool = False) -> Tensor:
        return torch_functional.l1_loss(outputs, targets)


@dataclass(frozen=True)
class Huber(Loss):
    """Squared / 2 within `delta` (1), linear beyond it. Huber 1964."""

    delta: float = 1.0
    is_of_places = True

    def __post_init__(self) -> None:
        if not self.delta > 0:
            raise ValueError(f"delta must be above 0, got {self.delta}")

    @override
    def __call__(self, outputs: Tensor, targets: Tensor, from_logits: bool = False) -> Tensor:
        return torch_functional.huber_loss(outputs, targets, delta=self.delta)


# torch losses that take logits: a model that ends in that activation must not apply it twice.
TORCH_ABSORBS: dict[type, str] = {
    nn.CrossEntropyLoss: "softmax",
    nn.BCEWithLogitsLoss: "sigmoid",
}


class Custom(Loss):
    """A function (outputs, targets) -> scalar or one value a sample, or a torch loss module."""

    integer_targets = None

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.function = function
        self.takes_arrays = not is_torchs(function)
        self.is_mean = is_mean(function)
        absorbed = (a for kind, a in TORCH_ABSORBS.items() if isinstance(function, kind))
        self.absorbs = next(absorbed, None)

    @override
    def __call__(self, outputs: Tensor, targets: Tensor, from_logits: bool = False) -> Tensor:
        value = self.function(outputs, targets)
        return value if value.dim() == 0 else value.mean()

    @override
    def check(self, outputs: Tensor, targets: Tensor, from_logits: bool = False) -> None:
        value = self.function(outputs, targets)
        if not isinstance(value, Tensor):
            raise TypeError(f"the loss must return a torch tensor, got {type(value).__name__}")


def is_torchs(function: Any) -> bool:
    """Whether a loss has the classes on axis 1: modules, and torch's functions, settings bound or not.

    >>> is_torchs(nn.NLLLoss()), is_torchs(torch_functional.nll_loss), is_torchs(lambda y, t: y - t)
    (True, True, False)
    """
    bare = getattr(function, "func", function)
    return isinstance(function, nn.Module) or (
        getattr(bare, "__module__", None) == torch_functional.__name__
    )


def is_mean(function: Any) -> bool:
    """Whether a loss of torch's is the mean over samples, as any other function is taken to be.

    It is not with reduction 'sum', nor where the mean is over weights of classes or leaves some out.

    >>> is_mean(nn.MSELoss()), is_mean(nn.MSELoss(reduction='sum')), is_mean(nn.NLLLoss(ignore_index=0))
    (True, False, False)
    """
    settings = getattr(function, "keywords", None) or (
        vars(function) | vars(function)["_buffers"] if isinstance(function, nn.Module) else {}
    )
    if settings.get("reduction", "mean") != "mean":
        return settings["reduction"] == "none"
    bare = getattr(function, "func", function)
    by_class = isinstance(function, (nn.CrossEntropyLoss, nn.NLLLoss)) or bare in (
        torch_functional.cross_entropy,
        torch_functional.nll_loss,
    )
    return not by_class or (
        settings.get("weight") is None and settings.get("ignore_index", -100) < 0
    )


# Names first met win when a loss is described, so each class's own name stands before its aliases.
TABLE: dict[str, Any] = {
    "sparse_categorical_crossentropy": SparseCategoricalCrossentropy,
    "categorical_crossentropy": CategoricalCrossentropy,
    "binary_crossentropy": BinaryCrossentropy,
    "cross_entropy": partial(SparseCategoricalCrossentropy, from_logits=True),
    "mean_squared_error": MeanSquaredError,
    "mse": MeanSquaredError,
    "mean_absolute_error": MeanAbsoluteError,
    "mae": MeanAbsoluteError,
    "huber": Huber,
}


def get(spec: Any) -> Loss:
    """The loss of that name, the loss itself, or any function (outputs, targets) wrapped.

    'cross_entropy' is sparse_categorical_crossentropy on logits: torch's convention.

    >>> get('mse')
    MeanSquaredError()
    """
    loss = registry.make("loss", TABLE, spec)
    return loss if isinstance(loss, Loss) else Custom(loss)


def describe(loss: Loss) -> dict[str, Any]:
    """Name and settings for a saved model; `get` reads them back."""
    return registry.describe("loss", TABLE, loss)
