"""Everything a run depends on, taken out of a trainer and put back: what a checkpoint holds.

Weights and buffers, the optimiser's state, the step number (all a schedule depends on), the running
means, the place in the data, every random state, what the guard and the callbacks remember.
"""

from __future__ import annotations

import re
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
        "structure": structure(trainer.model),
        "optimizer": {
            "class": type(trainer.optimizer).__name__,
            "settings": trainer.optimizer_settings,
            "state": trainer.optimizer.state_dict(),
        },
        "step_number": trainer.step_number,
        "first_step": trainer.first_step,
        "noise_seed": trainer.processes.seed,
        **trainer.counted(),
        "data": trainer.stream.state_dict(),
        # Of an ArrayLoader, whose order it is.
        "validation_epoch": getattr(trainer.held_out, "epoch", None),
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
    require_same_model(trainer.model, state["model"], state.get("structure"))
    require_same_optimizer(trainer.optimizer, state["optimizer"])
    counters = [each.name for each in (trainer.loss_mean, *trainer.metrics)]
    if set(counters) != set(state["metrics"]):
        raise ValueError(
            f"the checkpoint counts {', '.join(state['metrics'])}, this run {', '.join(counters)}"
        )
    if not again:
        trainer.stream.load_state_dict(state["data"])
        if hasattr(trainer.held_out, "epoch") and state.get("validation_epoch") is not None:
            trainer.held_out.epoch = state["validation_epoch"]
    trainer.model.load_state_dict(state["model"])
    trainer.optimizer.load_state_dict(state["optimizer"]["state"])
    settings = state["optimizer"].get("settings")
    if settings is not None and trainer.optimizer_settings is not None:
        warn_of_other_settings(settings, trainer.optimizer_settings)
        trainer.optimizer_settings = settings
    trainer.step_number = state["step_number"]
    trainer.first_step = state.get("first_step", trainer.first_step)  # older ones lack it
    trainer.processes.seed = state["noise_seed"]
    trainer.count_on(state)
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


def structure(model: nn.Module) -> list[list[str]]:
    """The modules of a model: name, class, and what is printed of it.

    >>> structure(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))[1:]
    [['0', 'Linear', 'in_features=2, out_features=3, bias=True'], ['1', 'ReLU', '']]
    """
    return [
        [name, type(module).__name__, without_places(module.extra_repr())]
        for name, module in model.named_modules()
    ]


def without_places(text: str) -> str:
    """What is printed, without the places in memory at which things lie."""
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def settings_of(optimizer: Any) -> list[dict[str, str]]:
    """The settings of each group of parameters, as text."""
    return [
        {name: without_places(repr(value)) for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]


def warn_of_other_settings(saved: list[dict[str, str]], own: list[dict[str, str]]) -> None:
    """Say in a line which settings of the program's optimiser have no effect."""
    pairs = [
        (name, before[name], now[name])
        for before, now in zip(saved, own, strict=True)
        for name in before
        if name in now and before[name] != now[name]
    ]
    if pairs:
        said = ", ".join(
            f"{name} {before}, not {now}" for name, before, now in dict.fromkeys(pairs)
        )
        warnings.warn(
            f"the run goes on with the optimizer's settings of its checkpoint: {said}", stacklevel=5
        )


def require_same_model(
    model: nn.Module, saved: dict[str, Any], saved_structure: list[list[str]] | None
) -> None:
    """Refuse weights of another model; older checkpoints have no structure."""
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
    own = structure(model)
    for before, now in zip(saved_structure or own, own, strict=False):
        if before != now:
            then, here = (f"{kind}({printed})" for _, kind, printed in (before, now))
            raise ValueError(
                f"the checkpoint is of another model: {now[0] or 'it'} was {then}, now it is {here}"
            )
    if saved_structure is not None and len(saved_structure) != len(own):
        raise ValueError(
            f"the checkpoint is of another model: one of {len(saved_structure)} modules, this one has "
            f"{len(own)}"
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
