"""What a metric is: a sum over batches, so that the mean over an epoch weighs every sample alike."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class Metric:
    """A mean over samples; a subclass gives `measure`, the sum over one batch."""

    default_name = "metric"
    adds_up = True  # `measure` says all of a batch: sums of several processes can be added
    activation: str | None = None  # what logits still lack, as `compile` knows it from the loss

    def __init__(self, name: str | None = None) -> None:
        self.name = name or self.default_name
        self.reset()

    def reset(self) -> None:
        """Start counting anew."""
        self.total: Tensor | float = 0  # whole, so that counts stay exact
        self.count = 0

    def activated(self, outputs: Tensor, from_logits: bool) -> Tensor:
        """The model's outputs, where they were handed over before their softmax or sigmoid."""
        if not from_logits:
            return outputs
        activation = self.activation or ("sigmoid" if is_single(outputs) else "softmax")
        return outputs.sigmoid() if activation == "sigmoid" else outputs.softmax(dim=1)

    def measure(self, outputs: Tensor, targets: Tensor, from_logits: bool) -> Tensor | float:
        """The sum of the measure over the samples of a batch."""
        raise NotImplementedError

    def update(self, outputs: Tensor, targets: Tensor, from_logits: bool = False) -> None:
        """Add a batch."""
        self.add(self.measure(outputs, targets, from_logits), len(targets))

    def add(self, measured: Tensor | float, samples: int) -> None:
        """Add what was measured of so many samples."""
        self.total = self.total + at_hand(measured)
        self.count += samples

    def result(self) -> float:
        """The mean over the samples so far; NaN before the first."""
        return float(self.total) / self.count if self.count else float("nan")

    def results(self) -> dict[str, float]:
        """The numbers of the history by name: `result()` under the metric's own."""
        return {self.name: self.result()}

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for a saved model."""
        return {"name": self.name}

    def state_dict(self) -> dict[str, Any]:
        """What was counted so far, for a checkpoint."""
        return {"total": self.total, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting from there."""
        self.total, self.count = state["total"], state["count"]


def is_single(outputs: Tensor) -> bool:
    """Whether a model gives one output a sample, or a place of it: the share of one of two classes."""
    return outputs.dim() == 1 or outputs.shape[1] == 1


def at_hand(value: Tensor | float) -> Tensor | float:
    """A single number on the CPU as a number, which costs less to add than a tensor; else the tensor."""
    if not isinstance(value, Tensor):
        return value
    return value.item() if value.is_cpu and not value.dim() else value.detach()


class Average(Metric):
    """The mean of a number whose sum over a batch is known: the trainer keeps its loss here."""

    default_name = "loss"
