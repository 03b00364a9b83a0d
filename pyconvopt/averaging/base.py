"""What every average of weights shares: in and out of the model, at the right times.

While other weights are in place, the trained ones and their batch-norm statistics are kept aside
and come back to the bit, so an average changes nothing about the training it hangs on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from pyconvopt.averaging.statistics import (
    Batch,
    has_statistics,
    recompute_statistics,
    uses_batch,
)
from pyconvopt.data.checks import whole
from pyconvopt.optimizers.closures import repeating
from pyconvopt.training.callbacks import Callback, Logs


class Averaging(Callback):
    """What all of them share: other weights in and out of the model, statistics to go with them.

    Args:
        in_validation: validation during `fit` sees the averaged weights (True).
        at_end: the model keeps the averaged weights when `fit` ends (True).
        batches: how many of the last training batches the batch-norm statistics are computed
            from (32). They are kept in memory and in checkpoints, for models with batch norm only.

    A run that its guard has stopped keeps the weights the guard puts back, not the average.

    A callback that looks at the model when an epoch ends sees the weights that are trained. The
    best ones of `EarlyStopping` and `ModelCheckpoint` are those whose number is watched: of a number
    of a validation that saw the average, the average with its statistics.
    """

    ends_first: ClassVar[bool] = True

    def __init__(self, in_validation: bool = True, at_end: bool = True, batches: int = 32) -> None:
        batches = whole("batches", batches)
        self.in_validation = in_validation
        self.at_end = at_end
        self.recent: deque[Batch] = deque(maxlen=batches)
        self.normalizing: dict[str, nn.Module] = {}
        self.watch: Any = None
        self.kept: list[tuple[Tensor, Tensor]] | None = None
        self.statistics: list[Tensor] | None = None  # the average's, until a step changes it
        self.seen = False  # by this epoch's validation

    # --- what an average is

    def attach(self, model: nn.Module) -> None:
        """Begin with a model: watch its training batches if it has batch norm."""
        self.detach()
        self.model = model
        self.kept = self.statistics = None
        self.seen = False
        self.recent.clear()
        self.normalizing = {}
        if any(map(has_statistics, model.modules())):
            self.watch = model.register_forward_pre_hook(self.remember, with_kwargs=True)

    def detach(self) -> None:
        """Stop watching the model."""
        if self.watch is not None:
            self.watch.remove()
            self.watch = None

    def ready(self) -> bool:
        """Whether there are weights to put in."""
        raise NotImplementedError

    def put_in(self) -> None:
        """Overwrite the model's weights with the average."""
        raise NotImplementedError

    def take_out(self) -> None:
        """What is to be done, beside the old weights coming back, when the average goes."""

    # --- in and out

    def remember(self, model: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Keep a batch of training, and which layers normalise by their batch."""
        if model.training and torch.is_grad_enabled() and not repeating.get():
            if not self.recent:
                self.normalizing = {
                    name: module
                    for name, module in model.named_modules()
                    if has_statistics(module) and uses_batch(module)
                }
            self.recent.append((inputs, options))
            self.statistics = None

    def swap_in(self) -> None:
        """Put the averaged weights and their statistics in; `swap_out` brings back every bit."""
        if self.kept is not None or not self.ready():
            return
        norms = self.normalizing.values()
        buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
        tensors = [*self.model.parameters(), *buffers]
        self.kept = [(tensor, tensor.detach().clone()) for tensor in tensors]
        self.put_in()
        if self.normalizing and self.statistics is None:
            recompute_statistics(self.model, norms, self.recent)
            self.statistics = [buffer.clone() for buffer in buffers]
        elif self.statistics is not None:
            for buffer, value in zip(buffers, self.statistics, strict=True):
                buffer.copy_(value)

    def swap_out(self) -> None:
        """Bring the trained weights and statistics back."""
        if self.kept is None:
            return
        self.take_out()
        with torch.no_grad():
            for tensor, value in self.kept:
                tensor.copy_(value)
        self.kept = None

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The averaged weights in the model for the length of a `with` block.

        Errors: RuntimeError before the first `update`.
        """
        if not self.ready():
            raise RuntimeError("there is no average yet: attach(model), then update() after steps")
        is_in = self.kept is not None  # as in a validation: it stays
        try:
            self.swap_in()
            yield
        finally:
            if not is_in:
                self.swap_out()

    @override
    def as_validated(self) -> AbstractContextManager[None]:
        return self.applied() if self.seen else nullcontext()

    # --- for a run that is taken up again

    def state_dict(self) -> dict[str, Any]:
        """What the average must go on with: the training batches it keeps, whose they are."""
        return {"batches": list(self.recent), "normalizing": list(self.normalizing)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, after `attach` to the model."""
        self.statistics = None
        self.recent.clear()
        self.recent.extend(state["batches"])
        self.normalizing = {name: self.model.get_submodule(name) for name in state["normalizing"]}

    # --- in a Trainer

    @override
    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.attach(self.model)

    @override
    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.seen = False

    @override
    def on_test_begin(self, logs: Logs | None = None) -> None:
        if self.in_validation and self.trainer.failure is None:
            self.swap_in()
        self.seen = self.kept is not None

    @override
    def on_test_end(self, logs: Logs | None = None) -> None:
        self.swap_out()

    @override
    def on_train_end(self, logs: Logs | None = None) -> None:
        self.swap_out()  # still in if validation ended in an error
        # An average that has seen the run blow up is spoilt: the guard's weights stay.
        if self.at_end and self.trainer.failure is None:
            self.swap_in()
            self.kept = None
        self.detach()
