"""Everything a run depends on, taken out of a trainer and put back: what a checkpoint holds.

Weights and buffers, the optimiser's state, the step number (all a schedule depends on), the running
means, the place in the data, every random state, what the guard and the callbacks remember.
"""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from pyconvopt.randomness import random_states, set_random_states
from pyconvopt.training.callbacks import Callback


def capture(trainer: Any, epoch: int, batch: int) -> dict[str, Any]:
    """The state of a run that goes on with that batch of that epoch.

    Several processes that train one model share all but what their callbacks remember.
    """
    remembered = [
        [type(callback).__name__, callback.state_dict()] for callback in trainer.hooks.callbacks
    ]
    return {
        "epoch": epoch,
        "batch": batch,
        "stop_training": bool(trainer.model.stop_training),
        "guard": None if trainer.guard is None else trainer.guard.state_dict(),
        "model": trainer.model.state_dict(),
        "optimizer": {
            "class": type(trainer.optimizer).__name__,
            "state": trainer.optimizer.state_dict(),
        },
        "step_number": trainer.step_number,
        "noise_seed": trainer.processes.seed,
        "samples_seen": trainer.samples_seen,
        "metrics": {each.name: each.state_dict() for each in (trainer.loss_mean, *trainer.metrics)},
        "data": trainer.stream.state_dict(),
        "callbacks": trainer.processes.gather(remembered),
        "random": random_states(),
    }


def restore(trainer: Any, state: dict[str, Any], again: bool = False) -> tuple[int, int]:
    """Put a state back; returns the epoch and the batch to go on with.

    `again` (False): the same state a second time, in the epoch it belongs to; the place in the data
    is found already.

    Errors: ValueError for the state of another model, optimiser, set of metrics or data. The model
    is then as it was.
    """
    require_same_model(trainer.model, state["model"])
    require_same_optimizer(trainer.optimizer, state["optimizer"])
    counters = {each.name: each for each in (trainer.loss_mean, *trainer.metrics)}
    if set(counters) != set(state["metrics"]):
        raise ValueError(
            f"the checkpoint counts {', '.join(state['metrics'])}, this run {', '.join(counters)}"
        )
    if not again:
        trainer.stream.load_state_dict(state["data"])
    trainer.model.load_state_dict(state["model"])
    trainer.optimizer.load_state_dict(state["optimizer"]["state"])
    trainer.step_number, trainer.samples_seen = state["step_number"], state["samples_seen"]
    trainer.processes.seed = state["noise_seed"]
    for name, counter in counters.items():
        counter.load_state_dict(state["metrics"][name])
    of_processes = state["callbacks"]
    unknown = restore_callbacks(
        trainer.hooks.callbacks, of_processes[trainer.processes.rank % len(of_processes)]
    )
    if unknown and not again:
        warnings.warn(
            f"the checkpoint knows nothing of {', '.join(unknown)}: what is new starts anew",
            stacklevel=3,
        )
    trainer.model.stop_training = state["stop_training"]
    if trainer.guard is not None and state["guard"] is not None:
        trainer.guard.load_state_dict(state["guard"])
    set_random_states(state["random"])
    return state["epoch"], state["batch"]


def require_same_model(model: nn.Module, saved: dict[str, Any]) -> None:
    """Refuse weights of another model."""
    wanted = {name: getattr(value, "shape", None) for name, value in model.state_dict().items()}
    got = {name: getattr(value, "shape", None) for name, value in saved.items()}
    for name in sorted(wanted.keys() | got.keys()):
        if wanted.get(name, 0) != got.get(name, 0):
            sides = [
                "no such weight" if name not in side else f"shape {tuple(side[name] or ())}"
                for side in (got, wanted)
            ]
            raise ValueError(
                f"the checkpoint is of another model: for {name} it holds {sides[0]}, the model "
                f"{sides[1]}"
            )


def require_same_optimizer(optimizer: Any, saved: dict[str, Any]) -> None:
    """Refuse the state of another optimiser."""
    if type(optimizer).__name__ != saved["class"]:
        raise ValueError(
            f"the checkpoint is of a run with {saved['class']}, this one has "
            f"{type(optimizer).__name__}"
        )
    sizes = [
        [len(group["params"]) for group in groups]
        for groups in (saved["state"]["param_groups"], optimizer.param_groups)
    ]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"the checkpoint's optimizer has groups of {sizes[0]} parameters, this one of "
            f"{sizes[1]}"
        )


def restore_callbacks(callbacks: list[Any], saved: list[list[Any]]) -> list[str]:
    """Give each callback the state of the one of its class, in order; those that found none.

    A callback that shows a run may come and go: the run does not depend on it.
    """
    unknown = []
    rest = list(saved)
    for callback in callbacks:
        name = type(callback).__name__
        entry = next((each for each in rest if each[0] == name), None)
        if entry is not None:
            rest.remove(entry)
            callback.load_state_dict(entry[1])
        elif remembers(callback) and not callback.only_shows:
            unknown.append(name)
    return unknown


def remembers(callback: Callback) -> bool:
    """Whether a callback of that class has a state, which it need not have yet."""
    return bool(callback.remembers) or type(callback).state_dict is not Callback.state_dict
