"""A model asked what its loss and metrics are: the half of a trainer that changes no weight.

Everything that can be decided once is decided before the loop (penalties, whether the loss takes
logits), and numbers are kept as tensors and read only when somebody looks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from torch import Tensor, nn

from pyconvopt import losses, regularizers
from pyconvopt.data import checks as data_checks
from pyconvopt.data.loader import ArrayLoader, Loader, as_batches
from pyconvopt.metrics import Average, get_all
from pyconvopt.metrics.base import at_hand
from pyconvopt.regularizers.terms import RunLength
from pyconvopt.training import arguments, checks
from pyconvopt.training.callbacks import Callback, CallbackList, LazyLogs, listed
from pyconvopt.training.inference import build_for, evaluating, place
from pyconvopt.training.labels import classes_second, loss_targets
from pyconvopt.training.processes import Processes
from pyconvopt.training.weighting import weighted_loss


class Evaluator:
    """Base class of `Trainer`: forward passes, the loss with its penalties, running means."""

    regularizers: Mapping[str, Any] | None = None  # patterns of weights, beside what the model has

    def __init__(self, model: nn.Module, loss: Any, metrics: Any) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"the model must be a torch nn.Module, got {type(model).__name__}")
        self.model: Any = model
        self.loss = losses.get(loss)
        self.loss_mean = Average("loss")
        self.metrics = get_all(listed(metrics))
        self.processes = Processes()  # those of a fit; outside it this one is alone
        self.step_number = 0
        self.samples_seen = 0
        self.is_in_epoch = False  # of a fit, whose counts an evaluation is to leave
        # The steps of an epoch and of the run. Before the first any will do: of every schedule they
        # give the same step 0.
        self.run_length: RunLength = (1, 1)

    def settle(self) -> None:
        """Read from the model what a batch needs: where it lies, its penalties, its last step."""
        self.device, self.dtype = place(self.model)
        self.penalties = regularizers.terms(self.model, self.run_length, self.regularizers)
        classes_last = getattr(self.model, "classes_last", False)
        self.moves_for_loss = classes_last and not self.loss.takes_arrays
        self.moves_for_metrics = classes_last and self.loss.takes_arrays
        ending = getattr(self.model, "output_activation", None)
        self.takes_logits = ending is not None and ending == self.loss.absorbs
        model = self.processes.parallel or self.model
        self.forward = partial(model, logits=True) if self.takes_logits else model

    def try_first_batch(self, loader: ArrayLoader) -> None:
        """Refuse validation data that do not fit now, not after an epoch of training."""
        checks.require_labels(loader, self.loss)
        data_checks.require_finite(loader.x, "validation images")
        with evaluating(self.model):
            x, y = next(iter(loader))[:2]
            self.run(x, y, loader)

    def run(self, x: Tensor, y: Tensor, check_against: Loader | None) -> tuple[Tensor, Tensor]:
        """Outputs (logits where the loss takes them) and targets in the loss's type and order of axes."""
        try:
            with self.processes.drawing(self, len(x)):
                outputs = self.forward(x.to(self.device, self.dtype))
        except ValueError as error:
            raise checks.clearer(error, len(x)) from None
        if not isinstance(outputs, Tensor):
            raise TypeError(
                f"the model must return one tensor, got {type(outputs).__name__}: wrap it in a module "
                "that returns what the loss compares"
            )
        targets = loss_targets(self.loss, y.to(self.device), outputs, self.dtype)
        if self.moves_for_loss:
            outputs, targets = classes_second(outputs, targets)
        if check_against is not None and len(x):
            checks.with_first_batch(check_against, self, outputs, targets)
        return outputs, targets

    def total_loss(self, outputs: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss with the penalties on the weights; of no samples, 0 with gradients of 0."""
        if not len(targets):
            return outputs.sum()
        if weight is None:
            loss = self.loss(outputs, targets, self.takes_logits)
        else:
            weight = weight.to(outputs.device, outputs.dtype)
            loss = weighted_loss(self.loss, outputs, targets, weight, self.takes_logits)
        if self.penalties:
            loss = loss + regularizers.penalty(self.penalties, self.step_number)
        return loss

    def reset(self) -> None:
        """Start counting loss and metrics anew."""
        self.samples_seen = 0
        for metric in (self.loss_mean, *self.metrics):
            metric.reset()

    def counted(self) -> dict[str, Any]:
        """What was counted so far, of a checkpoint too; `count_on` goes on from there."""
        states = {each.name: each.state_dict() for each in (self.loss_mean, *self.metrics)}
        return {"samples_seen": self.samples_seen, "metrics": states}

    def count_on(self, state: Mapping[str, Any]) -> None:
        """Go on counting from there."""
        self.samples_seen = state["samples_seen"]
        for metric in (self.loss_mean, *self.metrics):
            metric.load_state_dict(state["metrics"][metric.name])

    def count(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> Tensor | float:
        """Add a batch to the running means; returns its loss."""
        if self.moves_for_metrics:
            outputs, targets = classes_second(outputs, targets)
        if self.processes.count > 1:
            return self.processes.count_batch(self, loss, outputs, targets)
        samples = len(targets)
        self.samples_seen += samples
        value = at_hand(loss)
        self.loss_mean.add(value * samples, samples)
        for metric in self.metrics:
            metric.update(outputs, targets, self.takes_logits)
        return value

    def logs(self) -> dict[str, float]:
        """The means so far: 'loss' and each metric."""
        found: dict[str, float] = {}
        for metric in (self.loss_mean, *self.metrics):
            found |= metric.results()
        return found

    def evaluate(
        self,
        data: Any,
        batch_size: int = 256,
        steps: int | None = None,
        sample_weight: Any = None,
        callbacks: Sequence[Callback] | Callback = (),
    ) -> dict[str, float]:
        """Loss (penalties included) and metrics over the data, in evaluation mode.

        `steps` (None: all): the most batches. `sample_weight`, and weights that come with the
        data, weigh the loss. `callbacks`: of these the test hooks are called.

        Errors: ValueError for labels that do not fit the model.
        """
        steps = None if steps is None else arguments.whole("steps", steps)
        loader = as_batches(arguments.weighted(data, sample_weight), batch_size)
        if isinstance(loader, ArrayLoader):
            data_checks.require_finite(loader.x, "images")
        hooks = CallbackList(callbacks)
        hooks.bind(self.model, self)
        hooks.call("on_test_begin", {})
        counted = self.counted() if self.is_in_epoch else None
        logs = self.measure(loader, steps, hooks)
        if counted is not None:
            self.count_on(counted)
        hooks.call("on_test_end", logs)
        return logs

    def measure(self, loader: Loader, steps: int | None, hooks: CallbackList) -> dict[str, float]:
        """Loss and metrics over a loader's batches, with the hooks of each."""
        begin, end = hooks.hooks("on_test_batch_begin"), hooks.hooks("on_test_batch_end")
        running = LazyLogs(self.logs)
        build_for(self.model, loader)
        if isinstance(loader, ArrayLoader):
            checks.require_labels(loader, self.loss)
        self.settle()
        self.reset()
        with evaluating(self.model):
            batches = self.processes.own(loader, islice(loader, steps))
            for batch, parts in enumerate(batches):
                if batch == 0:
                    data_checks.require_parts(parts)
                x, y, *weight = parts
                for hook in begin:
                    hook(batch, running)
                outputs, targets = self.run(x, y, loader if batch == 0 else None)
                self.count(self.total_loss(outputs, targets, *weight), outputs, targets)
                for hook in end:
                    hook(batch, running)
        if not self.loss_mean.count:
            raise ValueError("there is no batch to evaluate on; a generator can be read only once")
        return self.logs()
